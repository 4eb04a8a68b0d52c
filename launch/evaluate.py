"""Scores a trained run on held-out patients: python -m launch.evaluate --workdir=DIR"""

from absl import flags

from jax_pix2pix.runs import workdir_files
from jax_pix2pix.errors import ConfigError
from launch.process import command, remote_workdir
from jax_pix2pix.inference.mask_options import mask_options

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
_COUNT = flags.DEFINE_integer("count", 16, "of a pyramid: samples to draw")
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
    """Refuses what config.json tells; what does the rest imports TensorFlow and JAX, for seconds.

    It imports both before JAX takes its devices, which TensorFlow is to see nothing of.
    """
    config = workdir_files.read_config(workdir)
    if "pyramid" in config:
        _refuse(OF_MASKS, "of systems that make masks")
        if _SPLIT.value not in (None, "train"):
            raise ConfigError(
                f"--split={_SPLIT.value}: a pyramid is evaluated on its training volumes; leave it "
                "out"
            )
        from jax_pix2pix.evaluation import pyramid

        pyramid.evaluate_run(
            workdir, _CHECKPOINT.value or "last", _COUNT.value, _SEED.value, _VOLUMES.value
        )
        return
    _refuse(OF_PYRAMIDS, "of pyramids")
    mc_dropout, components = _MC_DROPOUT.value, _COMPONENTS.value
    if workdir_files.makes_masks(config):
        with workdir_files.named_if_incomplete(workdir):
            mc_dropout, _ = mask_options(config, mc_dropout, None, components)
    else:
        _refuse(OF_MASKS, "of systems that make masks")
    workdir_files.check_trained(workdir)
    from jax_pix2pix.evaluation import evaluate

    evaluate.evaluate(
        workdir, _SPLIT.value or "test", _CHECKPOINT.value or "best", mc_dropout, components
    )


def _refuse(given, whose):
    """Raises ConfigError for flags that this system has no use for."""
    names = [f"--{flag.name}" for flag in given if flag.present]
    if names:
        raise ConfigError(f"{' and '.join(names)} are {whose}: leave them out")


if __name__ == "__main__":
    command.run(main)
