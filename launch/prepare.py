"""Prepares a data set for training.

    python -m launch.prepare --config=configs/lidc_mask2ct.py --source=DIR

config.data says which data set to prepare, where and with which options. Give the same --config and
the same --config.data.FIELD=VALUE overrides as in training. --resample is short for
--config.data.resample=True, which training then needs too. It prints what it finds, then where the
prepared data is. If it is killed, start it again: finished shards are kept. An error prints one
line and exits with code 1.

--spacing_mm, --axes and --geometry are short for config.data.given_spacing_mm, given_axes and
geometry, which training then needs too. They say of volumes what their headers leave open: identity
affines of CTs, axes without directions, NIfTIs whose two affines differ. geometry.csv in the source
folder says it file by file, with the columns file_name, spacing_mm, axes and geometry. Slices
of a volume whose spacing stays unknown have no surface distances; what is resampled, and training
volumes of pyramids, need it.
"""

import signal

from absl import flags
from ml_collections import config_flags

from input_pipeline.prepare import options_of, prepare
from jax_pix2pix import config_fields
from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.geometry import given
from launch.process import command

_CONFIG = config_flags.DEFINE_config_file("config", None, "the system's config, file.py[:variant]")
_SOURCE = flags.DEFINE_string("source", None, "folder of the source files")
_RESAMPLE = flags.DEFINE_bool(
    "resample", False, "bring source and mask to the CT's grid; train with --config.data.resample"
)
_SHORT = {  # names of flags: fields of config.data
    "spacing_mm": "given_spacing_mm",
    "axes": "given_axes",
    "geometry": "geometry",
}
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
    for flag, field in _SHORT.items():
        value = flags.FLAGS[flag].value
        if value is None:
            continue
        if field not in options_of(data):
            raise DataError(f"--{flag}: the data set {data.dataset} has no volumes: leave it")
        data[field] = given(**{flag: value}).spacing_mm if flag == "spacing_mm" else value
    prepare(
        data.dataset,
        _SOURCE.value,
        data.data_dir,
        pseudonyms=_PSEUDONYMS.value,
        **options_of(data),
    )


def _define_flags():
    """Not run at import: two commands may share a flag's name."""
    flags.DEFINE_string(
        "spacing_mm",
        None,
        "mm between slices, rows and columns of volumes that do not state it, e.g. 2.5,0.7,0.7",
    )
    flags.DEFINE_string("axes", None, "where axes run to of volumes that do not state it, e.g. LPS")
    flags.DEFINE_enum(
        "geometry", None, ["sform", "qform"], "which counts where a NIfTI's two affines differ"
    )


if __name__ == "__main__":
    _define_flags()
    command.run(main)
