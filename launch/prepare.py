"""Prepares a data set for training.

    python -m launch.prepare --config=configs/lidc_mask2ct.py --source=DIR

config.data says which data set to prepare, where and with which options. Give the same --config and
the same --config.data.FIELD=VALUE overrides as in training. --resample is short for
--config.data.resample=True, which training then needs too. It prints what it finds, then where the
prepared data is. If it is killed, start it again: finished shards are kept. An error prints one
line and exits with code 1.
"""

import signal

from absl import flags
from ml_collections import config_flags

from input_pipeline.prepare import options_of, prepare
from jax_pix2pix import config_fields
from jax_pix2pix.errors import DataError
from launch.process import command

_CONFIG = config_flags.DEFINE_config_file("config", None, "the system's config, file.py[:variant]")
_SOURCE = flags.DEFINE_string("source", None, "folder of the source files")
_RESAMPLE = flags.DEFINE_bool(
    "resample", False, "bring source and mask to the CT's grid; train with --config.data.resample"
)
_PSEUDONYMS = flags.DEFINE_string(
    "pseudonyms",
    None,
    "a file with a key, made if missing: prepared data and all that follows from it name patients "
    "and files by pseudonyms, and this file alone has the true names",
)
flags.mark_flags_as_required(["config", "source"])


def main():
    # Without Python's handler, Ctrl-C leaves the finished shards, as a kill does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    config_fields.check(_CONFIG.value.to_dict())
    data = _CONFIG.value.data
    if _RESAMPLE.value:
        if "resample" not in data:
            raise DataError(
                f"--resample: the data set {data.dataset} knows no resampling: leave it"
            )
        data.resample = True
    prepare(
        data.dataset,
        _SOURCE.value,
        data.data_dir,
        pseudonyms=_PSEUDONYMS.value,
        **options_of(data),
    )


if __name__ == "__main__":
    command.run(main)
