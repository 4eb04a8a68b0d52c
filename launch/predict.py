"""What a trained run makes of new images.

    python -m launch.predict --workdir=DIR --input=FILE_OR_DIR --output=DIR

A run of lidc_mask2ct takes masks, .npy or .png, and makes CT slices, 8-bit PNGs of
config.data.image_size a side.

A run that makes masks of X-rays takes .png or JSRT's .IMG; of a folder it passes over masks (mask/,
ManualMask/). For a/NAME.png it writes a/NAME.png of the same size, 0 and 255.

A run that makes masks of CT takes volumes, .nii, .nii.gz or the folder of a DICOM series; of a
folder it passes over labels (segmentation-N.nii, labelsTr/). For a/volume-N.nii it writes
a/prediction-N.nii.gz, for other names a/NAME.nii.gz: uint8, with the voxels, the axes and the
affine of the volume, 0 and 1 or the number of the class.

Images are prepared as for training and evaluation, and probabilities are resized to the source's
own pixels before they are cut at the threshold; of several classes the most probable one is taken.
--largest_components counts components of all classes together, in an X-ray or in a whole volume.

--mc_dropout=K averages K passes with dropout and, from 2 on, writes NAME_uncertainty beside the
mask, the standard deviation of the foreground's probability over the passes: of a volume as
float32; of an X-ray as 16-bit PNG, in which white, 65535, is 0.5, the most it can be.

A folder is read with all below it, and the results lie as their sources do. Each is complete when
it appears under its name; those that are there are replaced.
"""

from absl import flags

from jax_pix2pix.errors import ConfigError, chosen
from jax_pix2pix.segmentation import Segmentation
from jax_pix2pix.workdir import load_run
from launch import command, predict_ct, predict_images, predict_volumes
from launch.predict_masks import mask_model

FLAGS = flags.FLAGS


def main():
    predict(
        FLAGS.workdir,
        FLAGS.input,
        FLAGS.output,
        FLAGS.checkpoint,
        FLAGS.mc_dropout,
        FLAGS.threshold,
        FLAGS.largest_components,
    )


def predict(
    workdir, source, output, checkpoint="best", mc_dropout=None, threshold=None, components=0
):
    """See above; the arguments are the flags.

    Raises:
        WorkdirError: there is no such run or checkpoint.
        ConfigError: a flag does not fit the run.
        DataError: the input is not what the run takes, or cannot be read.
    """
    config, system, generator, _ = load_run(workdir, checkpoint)
    options = mc_dropout, threshold, components
    if not isinstance(system.task, Segmentation):
        if options != (None, None, 0):
            raise ConfigError(
                "--mc_dropout, --threshold and --largest_components are of systems that make masks"
            )
        predict_ct.predict(config, system, generator, source, output)
        return
    model = mask_model(config, system, generator, *options)
    by_type = {"uint8": predict_images.predict, "int16": predict_volumes.predict}  # int16 is HU
    chosen(by_type, "data.source_type", config.data.source_type)(config.data, model, source, output)


def _define_flags():
    """Not at import: flags of two commands may share a name, and tests import both."""
    flags.DEFINE_string("workdir", None, "a trained run")
    flags.DEFINE_string("input", None, "a file or a folder, of what the run takes")
    flags.DEFINE_string("output", None, "folder for the results")
    flags.DEFINE_string("checkpoint", "best", "best, last or a step")
    flags.DEFINE_integer(
        "mc_dropout", None, "of masks: passes with dropout to average; config.evaluation.mc_dropout"
    )
    flags.DEFINE_float(
        "threshold", None, "of masks of one class: a probability; config.evaluation.threshold"
    )
    flags.DEFINE_integer("largest_components", 0, "of masks: keep so many components; 0 keeps all")
    flags.mark_flags_as_required(["workdir", "input", "output"])


if __name__ == "__main__":
    _define_flags()
    command.run(main)
