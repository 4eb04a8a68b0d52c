"""Writes a trained segmenter as one file, for the segmentation loss of the CT pyramids.

    python -m launch.train --config=configs/lung_segmenter.py --workdir=runs/lungs
    python -m launch.export_segmenter --workdir=runs/lungs --output=lungs.safetensors
    python -m launch.train --config=configs/ct_pyramid_3d.py \
        --config.loss.segmentation_weights_file=lungs.safetensors --workdir=runs/pyramid

`jax_pix2pix/losses/segmenter.py` has the layout of the file.
"""

import os

from absl import flags

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.losses import segmenter
from jax_pix2pix.runs.stores import remote_workdir
from jax_pix2pix.runs.workdir import load_run
from jax_pix2pix.runs.workdir_files import finest
from launch.process import command

FLAGS = flags.FLAGS
ENDING = ".safetensors"


def main():
    with remote_workdir.copied(FLAGS.workdir) as workdir:
        export(workdir, FLAGS.output, FLAGS.checkpoint)


def export(workdir, output, checkpoint="best"):
    """Writes the file; the arguments are the command's flags.

    Raises:
        WorkdirError: there is no such run or checkpoint.
        ConfigError: the run is no segmenter, or `output` has another ending.
    """
    if not output.endswith(ENDING):
        raise ConfigError(f"--output={output}: use a name that ends in {ENDING}")
    config, system, generator, step = load_run(finest(workdir), checkpoint)
    segmenter.save(output, config, system, generator)
    segmenter.load(output)
    run = remote_workdir.as_given(workdir)
    print(f"step {step} of {run}: {output}, {os.path.getsize(output):,} bytes")


def _define_flags():
    """Not run at import: two commands may share a flag's name, and tests import both."""
    flags.DEFINE_string("workdir", None, "a trained run of configs/lung_segmenter.py")
    flags.DEFINE_string("output", None, f"file, NAME{ENDING}; replaced if it is there")
    flags.DEFINE_string("checkpoint", "best", "best, last or a step")
    flags.mark_flags_as_required(["workdir", "output"])


if __name__ == "__main__":
    _define_flags()
    command.run(main)
