"""Scores masks of any origin: python -m launch.compare --predictions=DIR --references=DIR"""

import os

from absl import flags

from jax_pix2pix.evaluation.compare import compare, table
from jax_pix2pix.evaluation.report import write_json
from jax_pix2pix.safety import named_files
from jax_pix2pix.safety.accounts import save_table
from launch.process import command
from launch.process.progress import bar

FLAGS = flags.FLAGS


def main():
    if FLAGS.output:  # fails now, not after an hour of scoring
        os.makedirs(os.path.dirname(os.path.abspath(FLAGS.output)), exist_ok=True)
        named_files.check_output(FLAGS.output)
    with bar("case") as progress:
        results = compare(
            FLAGS.predictions,
            FLAGS.references,
            FLAGS.regions,
            FLAGS.spacing_mm,
            FLAGS.patient_pattern,
            progress,
            FLAGS.axes,
            FLAGS.geometry,
        )
    print(table(results))
    if FLAGS.output:
        _, path = write_json(FLAGS.output, results)
        print(f"protocols and values by case: {path}")
        path = f"{os.path.splitext(FLAGS.output)[0]}_files.csv"
        save_table(path, ["folder", "file", "what", "why"], results["files"])
        print(f"files that were used and passed over: {path}")


def _define_flags():
    """Not run at import: two commands may share a flag's name."""
    flags.DEFINE_string(
        "predictions",
        None,
        "folder of masks, at any depth: volumes (.nii, .nii.gz, .mha, .mhd, .nrrd or folders of "
        "DICOM series), or pictures (.png, .tif, .gif)",
        required=True,
    )
    flags.DEFINE_string("references", None, "folder with a mask for each prediction", required=True)
    flags.DEFINE_string("output", None, "JSON file for the scores and their protocols")
    flags.DEFINE_string(
        "regions",
        None,
        "names and labels, e.g. liver:1+2,tumour:2; default: all values above 0, or above 127 in "
        "an image with soft edges",
    )
    flags.DEFINE_string(
        "spacing_mm",
        None,
        "spacing in mm of an image's rows and columns, e.g. 0.2,0.2; default: distances in pixels. "
        "Of slices, rows and columns of volumes that do not state theirs, e.g. 2.5,0.7,0.7; "
        "default: no distances of these",
    )
    flags.DEFINE_string(
        "axes", None, "where the axes run to of volumes that do not state it, e.g. LPS"
    )
    flags.DEFINE_enum(
        "geometry", None, ["sform", "qform"], "which counts where a NIfTI's two affines differ"
    )
    flags.DEFINE_string(
        "patient_pattern",
        None,
        "regular expression for a case's name, whose group 1 is the patient, e.g. ([^_]+); "
        "default: each case is a patient",
    )


if __name__ == "__main__":
    _define_flags()
    command.run(main)
