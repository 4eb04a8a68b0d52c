"""Predicts from new images with a trained run.

    python -m launch.predict --workdir=DIR --input=FILE_OR_DIR --output=DIR

A run of lidc_mask2ct takes masks, .npy or .png, and makes CT slices: 8-bit PNGs with
config.data.image_size pixels a side.

A run that makes masks of X-rays takes .png, .jpg and .tif of 8 bits, or of 16 if they are grey,
DICOM (CR, DX) and JSRT's .IMG. In a folder it passes over masks (mask/, ManualMask/, masks/,
left_lung/, right_lung/) and GIFs. For a/NAME.jpg it writes a/NAME.png of the same size, with the
values 0 and 255. DICOM is shown by its first window, and MONOCHROME1 is inverted; without a window,
and where there are 16 bits, the percentiles 0.5 and 99.5 of the values become black and white. An
orientation tag turns the X-ray upright, and its mask lies on the upright picture. A line tells each
of these.

A run that makes masks of CT takes volumes: .nii, .nii.gz, .mha, .mhd, .nrrd or folders of a DICOM
series. In a folder it passes over labels (segmentation-N.nii, labelsTr/). For a/volume-N.nii it
writes a/prediction-N.nii.gz, for other names and folders a/NAME.nii.gz; of one volume --output may
be the file itself. The result is uint8, with the voxels, the axes and the affine of the volume; the
values are 0 and 1, or the number of the class. A run of lung_segmenter sees the whole volume
resized to one size, and its mask is interpolated back.

A run that makes synthetic CT of MR takes volumes, .nii, .nii.gz, .mha, .mhd or .nrrd. It writes
int16 volumes in HU, with the voxels, the axes and the affine of the MR. In the MR's own format the
geometry is the same bit for bit.

    python -m launch.predict --workdir=DIR --input=mr.nii.gz --output=sct.nii.gz

Of a folder it takes all volumes but SynthRAD's other ones (ct.*, mask.*, sct.*, cbct.*). A DICOM
series is refused, unless it lies below the folder of a volume that is taken. For
a/NAME.mha it writes a/NAME.mha, for a/mr.mha a/sct.mha. The body, by which an MR is scaled, is that
of --mask, or of mask.* beside mr.*, or is found; a line says which. In 3D, patches that overlap by
half are blended with Gaussian weights.

--reference=ct.nii.gz scores one volume on the CT's own voxels. It prints the scores of the
protocols in jax_pix2pix/metrics/protocols.py, and surrogate doses beside controls. It writes all
scores, those of structures, distances, doses and controls included, beside sct.nii.gz as
`launch.evaluate` does: sct.json, sct.csv, sct.html and sct.png. A run with config.data.resample
resamples MR and mask to the voxels of the reference, as its training data was, and writes the
synthetic CT on these.

If such a run learnt from pictures, it takes pictures of MR alone, .png, .jpg or .tif, grey or RGB,
without the CT side by side. For a/NAME.jpg it writes a/NAME.png, 8-bit grey, of the same size, in
which 0 and 255 are config.data.image_window_hu. In a folder it passes over CTs (B/, trainB/, valB/,
testB/), and where there are volumes pictures. A run that learnt from volumes takes no pictures.

Images are prepared as for training and evaluation. Probabilities are resized to the source's own
pixels and then cut at the threshold; with several classes the most probable one is taken.
--largest_components counts components of all classes together, in an X-ray or in a whole volume;
those that touch the border of the X-ray, or of a slice, come last, for they are air or an arm more
often than a lung. --fill_holes fills the holes that are left. A mask that covers 20 % of the border
of its picture is noted.

A volume's header may leave open how large its voxels are: identity affines of CTs, a MetaImage
without ElementSpacing. Masks and synthetic CT do without; then a warning says that the spacing is
unknown, the result is marked so and has no score in mm or of dose. --spacing_mm=2.5,0.7,0.7 states
it, between slices, rows and columns; it counts for these files alone. --axes=LPS is for files that
do not say where their axes run to, --geometry=sform or qform for NIfTIs whose two affines differ.
A folder of several DICOM series is refused with a list of them; --series=UID takes one of it.

--mc_dropout=K averages K passes with dropout. From K=2 on it also writes NAME_uncertainty beside
the mask: the standard deviation of the foreground's probability over the passes. For a volume it
is float32. For an X-ray it is a 16-bit PNG, in which white, 65535, is 0.5, the largest possible
value.

A pyramid samples volumes from noise and needs no --input:

    python -m launch.predict --workdir=DIR --output=DIR --count=16 --seed=0

sample_0000.nii.gz and so on are CTs in int16 HU; --format=mhd, for instance, gives them another
ending. sample_0000.png shows three planes through the centre, or all slices for a 2D run;
samples.png has all samples. Sample 3 is the same whatever --count is. An unfinished run samples
its finest scale so far.

--size=D,H,W, in 2D H,W, is the samples' size. With batch norm it may be any, and memory beyond the
volume is constant; with instance norm, 2D's default, the image is one block of limited size.
Voxels keep the size that they have in the training volumes (the median, of several), so that a
larger sample shows more. --from_scale=K samples the scales from K on, and takes what is coarser
from the training volumes in turn, or from the volume --input: such a sample shows what they show,
so that its voxels become smaller as --size grows. --reconstruct makes the training volumes of their
fixed noise instead, reconstruction_0000 and so on, at most --count.

A folder is read with all its subfolders, but links to folders are not followed, and the results lie
as their sources do. A result appears under its name once it is complete, and replaces an earlier
one. At the end a line counts the files that were used, passed over, for which reason, and failed;
files.csv in --output has them all. With --on_error=skip an input that cannot be used ends nothing
else; the exit code is 1 then too.
"""

from absl import flags

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.imaging import geometry
from jax_pix2pix.inference import checks
from jax_pix2pix.runs import workdir_files
from jax_pix2pix.runs.stores import remote_workdir, storage
from jax_pix2pix.tasks.kinds import has_scales
from launch.process import command, run_data

FLAGS = flags.FLAGS


def main():
    for name in ("input", "output", "mask", "reference"):
        storage.check_local(name, FLAGS[name].value)
    options = {name: FLAGS[name].value for name in checks.OPTIONS if FLAGS[name].present}
    if "size" in options:
        options["size"] = _size(options["size"])
    with remote_workdir.copied(FLAGS.workdir) as workdir:
        predict(
            workdir, FLAGS.input, FLAGS.output, FLAGS.checkpoint, FLAGS.workdir, FLAGS.data,
            **options,
        )  # fmt: skip


def predict(workdir, source, output, checkpoint=None, called=None, data_dir=None, **options):
    """Writes the results and prints where they are.

    Args:
        workdir: a folder.
        source, output: files or folders.
        checkpoint: name, or None.
        called: the user's name for the workdir, where `workdir` is a copy of it.
        data_dir: folder or store of prepared data sets that the user has named, for what begins
            with training volumes; None for the config's, if it is on this machine.
        **options: of checks.OPTIONS.

    Raises:
        WorkdirError: there is no such run or checkpoint.
        ConfigError: a flag does not fit the run.
        DataError: the input is not what the run takes, or cannot be read.
    """
    options = {name: value for name, value in options.items() if value is not None}
    asked = checks.Asked(source, output, options)
    called, workdir = called or workdir, workdir_files.finest(workdir)
    config = workdir_files.read_config(workdir)
    if data_dir and not has_scales(config):
        raise ConfigError("--data: only pyramids begin with training volumes, leave it out")
    pairs, account = checks.check(config, workdir, asked)
    workdir_files.check_trained(workdir)
    # Imported here, as it imports JAX, which takes longer than all the checks above.
    from jax_pix2pix.inference.run import open_run

    run = open_run(workdir, checkpoint, called)
    if has_scales(config):
        _sample(run, asked, workdir, data_dir)
    else:
        _predict_pairs(run, pairs, account, asked)


def _sample(run, asked, workdir, data_dir):
    from jax_pix2pix.inference.folders import sample_files
    from launch.process.progress import bar, say

    dataset = None
    if asked.options.get("reconstruct") or (asked.options.get("from_scale") and not asked.source):
        dataset = run_data.of_run(run.config, workdir, data_dir)
    with bar("volume") as progress:
        samples = sample_files(run, asked.output, asked.source, dataset, progress, **asked.options)
        for path, _ in samples:
            say(path)


def _predict_pairs(run, pairs, account, asked):
    from jax_pix2pix.inference.folders import predict_pairs
    from launch.process.progress import bar, say

    reference = asked.options.get("reference")
    with bar("step") as progress:
        predictions = predict_pairs(run, pairs, account, asked.output, progress, **asked.options)
        for path, written, prediction in predictions:
            untold = (note for note in prediction.notes if note not in prediction.told)
            lines = [*written, *(f"note: {note}" for note in untold)]
            if prediction.body_from:
                lines.append(f"body mask: {prediction.body_from}")
            if reference:
                lines += _scored(run, prediction, path, written[0], asked.options)
            say("\n".join(lines))


def _scored(run, prediction, path, result, options):
    from jax_pix2pix.evaluation import synthesis_report
    from jax_pix2pix.imaging.volume_file import without_ending

    user = {name: options[name] for name in geometry.OPTIONS if name in options}
    scores, written = synthesis_report.report_volume(
        run, prediction, path, options["reference"], without_ending(result), **user
    )
    table = synthesis_report.table_of_volume(scores)
    return [table, *(f"{what}: {path}" for what, path in written)]


def _size(text):
    """--size as a tuple. A part that is no number stays text, so that its refusal can show it."""
    return tuple(int(part) if part.isdecimal() else part for part in text.split(","))


def _define_flags():
    """Not run at import: two commands may share a flag's name, and tests import both."""
    flags.DEFINE_string("workdir", None, "a trained run")
    flags.DEFINE_string(
        "input", None, "input file or folder; pyramids take one, a volume, only with --from_scale"
    )
    flags.DEFINE_string("output", None, "folder for the results, or a file for that of one input")
    flags.DEFINE_enum(
        "on_error",
        "stop",
        checks.ON_ERROR,
        "at an input that cannot be used: stop, or skip it and exit with code 1 after the others",
    )
    flags.DEFINE_string("checkpoint", None, "best, last or a step; default best, for pyramids last")
    flags.DEFINE_integer(
        "mc_dropout",
        None,
        "number of passes with dropout to average (masks only); default "
        "config.evaluation.mc_dropout",
    )
    flags.DEFINE_float(
        "threshold",
        None,
        "probability above which a pixel is foreground (masks of one class only); default "
        "config.evaluation.threshold",
    )
    flags.DEFINE_integer(
        "largest_components",
        0,
        "number of components to keep, the largest, first those off the picture's border (masks "
        "only); 0: all",
    )
    flags.DEFINE_boolean("fill_holes", False, "fill holes in a picture or volume (masks only)")
    flags.DEFINE_string("mask", None, "mask of the body in the input (synthetic CT only)")
    flags.DEFINE_string(
        "reference", None, "real CT, or the folder of its DICOM series, to score against "
        "(synthetic CT only)",
    )  # fmt: skip
    flags.DEFINE_string(
        "spacing_mm",
        None,
        "mm between slices, rows and columns of volumes that do not state it, e.g. 2.5,0.7,0.7",
    )
    flags.DEFINE_string(
        "axes", None, "where the axes run to of volumes that do not state it, e.g. LPS"
    )
    flags.DEFINE_enum(
        "geometry", None, ["sform", "qform"], "which counts where a NIfTI's two affines differ"
    )
    flags.DEFINE_string("series", None, "SeriesInstanceUID, of a DICOM folder with several series")
    flags.DEFINE_integer("count", 16, "number of samples (pyramids only)")
    flags.DEFINE_integer("seed", 0, "seed of the samples' noise (pyramids only)", lower_bound=0)
    flags.DEFINE_integer("from_scale", 0, "first scale to sample (pyramids only)")
    flags.DEFINE_string("size", None, "size of the samples, D,H,W or in 2D H,W (pyramids only)")
    flags.DEFINE_boolean(
        "reconstruct", False, "make the training volumes from their fixed noise (pyramids only)"
    )
    flags.DEFINE_string("format", "nii.gz", "ending of the samples' names (pyramids only)")
    run_data.define_flag()
    flags.mark_flags_as_required(["workdir", "output"])


if __name__ == "__main__":
    _define_flags()
    command.run(main)
