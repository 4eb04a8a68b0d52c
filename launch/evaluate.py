"""Scores a trained run on held-out patients: python -m launch.evaluate --workdir=DIR"""

import os

from absl import flags

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.segmentation import Segmentation
from jax_pix2pix.workdir import load_run, read_config
from launch import (
    command,
    evaluate_ct,
    evaluate_pyramid,
    evaluate_segmentation,
    evaluate_synthesis,
    json_results,
    remote_workdir,
)

_WORKDIR = flags.DEFINE_string("workdir", None, "a trained run")
_SPLIT = flags.DEFINE_enum(
    "split", None, ["train", "validation", "test"], "what to score; test, of a pyramid always train"
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "best, last or a step; best, of a pyramid last"
)
_MC_DROPOUT = flags.DEFINE_integer(
    "mc_dropout", None, "of masks: passes with dropout to average; config.evaluation.mc_dropout"
)
_COMPONENTS = flags.DEFINE_integer(
    "largest_components", 0, "of masks: keep so many components of a prediction; 0 keeps all"
)
_COUNT = flags.DEFINE_integer("count", evaluate_pyramid.COUNT, "of a pyramid: samples to draw")
_SEED = flags.DEFINE_integer("seed", 0, "of a pyramid: of its samples")
_VOLUMES = flags.DEFINE_integer(
    "volumes", 0, "of a pyramid: volumes to look at, the first ones; 0 is all"
)
OF_PYRAMIDS, OF_MASKS = (_COUNT, _SEED, _VOLUMES), (_MC_DROPOUT, _COMPONENTS)
flags.mark_flag_as_required("workdir")


def main():
    with remote_workdir.copied(_WORKDIR.value, results="evaluation") as workdir:
        _evaluate(workdir)


def _evaluate(workdir):
    if "pyramid" not in read_config(workdir):
        _refuse(OF_PYRAMIDS, "of pyramids")
        evaluate(workdir, _SPLIT.value or "test", _CHECKPOINT.value or "best")
        return
    _refuse(OF_MASKS, "of systems that make masks")
    if _SPLIT.value not in (None, "train"):
        raise ConfigError(
            f"--split={_SPLIT.value}: a pyramid is evaluated on its training volumes; leave it out"
        )
    evaluate_pyramid.evaluate_run(
        workdir, _CHECKPOINT.value or "last", _COUNT.value, _SEED.value, _VOLUMES.value
    )


def _refuse(given, whose):
    """Raises ConfigError for flags that this system has no use for."""
    names = [f"--{flag.name}" for flag in given if flag.present]
    if names:
        raise ConfigError(f"{' and '.join(names)} are {whose}: leave them out")


def evaluate(workdir, split, checkpoint):
    """Prints the scores and writes workdir/evaluation/<split>.json and <split>.png.

    Of a system that makes CT of MR a table <split>.csv and a report <split>.html too.
    """
    config, system, generator, step = load_run(workdir, checkpoint)
    header = {"split": split, "checkpoint": checkpoint, "step": step}
    if isinstance(system.task, Segmentation):
        mc_dropout = (
            config.evaluation.mc_dropout if _MC_DROPOUT.value is None else _MC_DROPOUT.value
        )
        for name, value in (("mc_dropout", mc_dropout), ("largest_components", _COMPONENTS.value)):
            if value < 0:
                raise ConfigError(f"--{name}={value}: use 0 or more")
        results, pictures = evaluate_segmentation.evaluate(
            config, system, generator, split, mc_dropout, _COMPONENTS.value
        )
    else:
        _refuse(OF_MASKS, "of systems that make masks")
        kind = evaluate_synthesis if config.data.target == "ct" else evaluate_ct
        results, pictures = kind.evaluate(config, system, generator, split)

    results = header | results
    folder = os.path.join(workdir, "evaluation")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, split)
    if config.data.target == "ct":
        evaluate_synthesis.write(path, config, results, pictures)
        return
    json_results.write(f"{path}.json", results)
    pictures.save(f"{path}.png")
    print(f"best, median and worst: {remote_workdir.as_given(path)}.png")


if __name__ == "__main__":
    command.run(main)
