"""Prepares a data set for training.

    python -m launch.prepare --dataset=lidc_masks --source=DIR --data_dir=data

Prints what it finds, then where the prepared data is. When killed, start it again: finished shards
are kept. Errors exit with code 1 and one line.
"""

import signal

from absl import flags

from input_pipeline.prepare import prepare
from input_pipeline.safe_io import DataError
from launch import command

_DATASET = flags.DEFINE_string("dataset", "lidc_masks", "which data set the source is")
_SOURCE = flags.DEFINE_string("source", None, "folder that holds train/ and test/", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "folder for prepared data sets")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 128, "height and width, in pixels")
_MASK_RESIZE = flags.DEFINE_string("mask_resize", "nearest", "nearest, or bilinear (as published)")
_MASK_VALUES = flags.DEFINE_list("mask_values", "0,1,2", "values on disk of class 0, 1, ...")
_VALIDATION_FRACTION = flags.DEFINE_float(
    "validation_fraction", 0.1, "of the patients of train/, where there is no val/"
)


def main():
    # Without Python's handler, Ctrl-C leaves the finished shards, as a kill does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if not all(value.isdecimal() for value in _MASK_VALUES.value):
        raise DataError(f"--mask_values is {','.join(_MASK_VALUES.value)}: use e.g. 0,1,2")
    prepare(
        _DATASET.value,
        _SOURCE.value,
        _DATA_DIR.value,
        image_size=_IMAGE_SIZE.value,
        mask_resize=_MASK_RESIZE.value,
        mask_values=tuple(map(int, _MASK_VALUES.value)),
        validation_fraction=_VALIDATION_FRACTION.value,
    )


if __name__ == "__main__":
    command.run(main)
