"""What a trained run makes of new images.

    python -m launch.predict --workdir=DIR --input=FILE_OR_DIR --output=DIR

A run of lidc_mask2ct takes masks, .npy or .png, and makes CT slices, 8-bit PNGs of
config.data.image_size a side.

A run that makes masks of X-rays takes .png or JSRT's .IMG; of a folder it passes over masks (mask/,
ManualMask/). For a/NAME.png it writes a/NAME.png of the same size, 0 and 255.

A run that makes masks of CT takes volumes, .nii, .nii.gz, .mha, .mhd, .nrrd or the folder of a
DICOM series; of a folder it passes over labels (segmentation-N.nii, labelsTr/). For
a/volume-N.nii it writes a/prediction-N.nii.gz, for other names a/NAME.nii.gz: uint8, with the
voxels, the axes and the affine of the volume, 0 and 1 or the number of the class.

A run that makes synthetic CT of MR takes volumes, .nii, .nii.gz, .mha, .mhd or .nrrd, and writes
volumes in HU, int16, with the voxels, the axes and the affine of the MR; in its format, the same
bits.

    python -m launch.predict --workdir=DIR --input=mr.nii.gz --output=sct.nii.gz

Of a folder it takes all volumes but SynthRAD's ct.* and mask.*, and for a/NAME.mha it writes
a/NAME.mha, for a/mr.mha a/sct.mha. The body, by which an MR is scaled, is that of --mask, or of
mask.* beside mr.*, or is found; a line says which. In 3D, patches that overlap by half are blended
with Gaussian weights.

--reference=ct.nii.gz scores one volume on the CT's own voxels: it prints the protocols of
jax_pix2pix/metrics/protocols.py, and writes all scores, of structures, distances and the
surrogate dose too, beside sct.nii.gz as `launch.evaluate` does: sct.json, sct.csv, sct.html and
sct.png. A run with config.data.resample resamples MR and mask to the voxels of the reference, as
its training data was, and writes the synthetic CT on these.

Such a run that learnt from pictures takes those of MR, .png or .jpg, grey or RGB, never beside its
CT. For a/NAME.jpg it writes a/NAME.png, 8-bit grey, of the same size, in which 0 and 255 are
config.data.image_window_hu. Of a folder it passes over CTs (B/, trainB/, valB/, testB/); pictures
beside volumes are passed over.

Images are prepared as for training and evaluation, and probabilities are resized to the source's
own pixels before they are cut at the threshold; of several classes the most probable one is taken.
--largest_components counts components of all classes together, in an X-ray or in a whole volume.

--mc_dropout=K averages K passes with dropout and, from 2 on, writes NAME_uncertainty beside the
mask, the standard deviation of the foreground's probability over the passes: of a volume as
float32; of an X-ray as 16-bit PNG, in which white, 65535, is 0.5, the most it can be.

A pyramid makes volumes of noise, without an --input:

    python -m launch.predict --workdir=DIR --output=DIR --count=16 --seed=0

sample_0000.nii.gz and so on are CTs in int16 HU, --format=mhd, for instance, gives them another
ending; sample_0000.png shows three planes through the centre, of a 2D run all slices; samples.png
has all samples. Sample 3 is the same whatever --count is. Of an unfinished run it is the finest
scale so far.

--size=D,H,W, in 2D H,W, is the samples' size: any, with batch norm in memory that does not grow
with it but for the volume; with instance norm, 2D's default, an image is one block of limited size.
Voxels keep the size that they have in the training volumes (the median, of several), so that a
larger sample shows more. --from_scale=K samples the scales from K on, and takes what is coarser
from the training volumes in turn, or from the volume --input: such a sample shows what they show,
so that its voxels become smaller as --size grows. --reconstruct makes the training volumes of their
fixed noise instead, reconstruction_0000 and so on, at most --count.

A folder is read with all below it, and the results lie as their sources do. Each is complete when
it appears under its name; those that are there are replaced.
"""

import os

from absl import flags

from input_pipeline import storage
from jax_pix2pix.runs import workdir_files
from launch.process import command, remote_workdir
from jax_pix2pix.inference import checks

FLAGS = flags.FLAGS
OF_SAMPLES = checks.Sampling._fields


def main():
    for name in ("input", "output", "mask", "reference"):
        storage.check_local(name, FLAGS[name].value)
    with remote_workdir.copied(FLAGS.workdir) as workdir:
        predict(
            workdir,
            FLAGS.input,
            FLAGS.output,
            FLAGS.checkpoint,
            FLAGS.mc_dropout,
            FLAGS.threshold,
            FLAGS.largest_components,
            FLAGS.mask,
            FLAGS.reference,
            {name: FLAGS[name].value for name in OF_SAMPLES if FLAGS[name].present},
            called=FLAGS.workdir,
        )


def predict(
    workdir,
    source,
    output,
    checkpoint=None,
    mc_dropout=None,
    threshold=None,
    components=0,
    mask=None,
    reference=None,
    sampling=None,
    called=None,
):
    """See above; the arguments are the flags, `sampling` those of OF_SAMPLES that are given.

    called: what scores name as their workdir, where that is a copy of another.

    Raises:
        WorkdirError: there is no such run or checkpoint.
        ConfigError: a flag does not fit the run.
        DataError: the input is not what the run takes, or cannot be read.
    """
    options = mc_dropout, threshold, components
    if os.path.isdir(workdir_files.scale_directory(workdir, 0)):
        workdir, _ = workdir_files.last_scale(workdir)
    config = workdir_files.read_config(workdir)
    asked = checks.Asked(source, output, options, mask, reference, sampling or {})
    kind = checks.check(config, workdir, asked)
    workdir_files.check_trained(workdir)
    # Not above: it imports JAX, which takes longer than all that is refused before.
    from jax_pix2pix.inference import predict

    checkpoint = checkpoint or ("last" if kind == checks.SAMPLES else "best")
    predict.predict(kind, workdir, called or workdir, checkpoint, asked)


def _define_flags():
    """Not at import: flags of two commands may share a name, and tests import both."""
    flags.DEFINE_string("workdir", None, "a trained run")
    flags.DEFINE_string("input", None, "a file or a folder, of what the run takes, if anything")
    flags.DEFINE_string("output", None, "folder for the results, or a file for one synthetic CT")
    flags.DEFINE_string("checkpoint", None, "best, last or a step; best, of a pyramid last")
    flags.DEFINE_integer(
        "mc_dropout", None, "of masks: passes with dropout to average; config.evaluation.mc_dropout"
    )
    flags.DEFINE_float(
        "threshold", None, "of masks of one class: a probability; config.evaluation.threshold"
    )
    flags.DEFINE_integer("largest_components", 0, "of masks: keep so many components; 0 keeps all")
    flags.DEFINE_string("mask", None, "of synthetic CT: file of the body in the input")
    flags.DEFINE_string("reference", None, "of synthetic CT: file of the real CT, to score against")
    flags.DEFINE_integer("count", 16, "of a pyramid: samples")
    flags.DEFINE_integer("seed", 0, "of a pyramid: of the samples' noise", lower_bound=0)
    flags.DEFINE_integer("from_scale", 0, "of a pyramid: the first scale to sample")
    flags.DEFINE_string("size", None, "of a pyramid: of the samples, D,H,W or in 2D H,W")
    flags.DEFINE_boolean("reconstruct", False, "of a pyramid: the training volumes, of fixed noise")
    flags.DEFINE_string("format", "nii.gz", "of a pyramid: the ending of the samples' names")
    flags.mark_flags_as_required(["workdir", "output"])


if __name__ == "__main__":
    _define_flags()
    command.run(main)
