"""Checkpoints: Orbax's manager behind five verbs, saving asynchronously."""

import os
import platform
import warnings
from importlib import metadata

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    BestN,
    LatestN,
)

from jax_pix2pix.errors import WorkdirError


def environment():
    """What bitwise reproduction depends on beside the config."""
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    return versions | {
        "python": platform.python_version(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }


class Checkpoints:
    """The checkpoints of one run, in step-numbered folders of ``directory``.

    Keeps the last ``keep_last`` and the one with the highest ``best_metric`` among those saved
    with metrics.
    """

    def __init__(self, directory, best_metric, keep_last=1, read_only=False):
        self.directory = directory

        def score(metrics):
            return metrics[best_metric]

        # BestN decides what is kept; without best_fn the manager forgets metrics when restarted.
        best = BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep_last), best]),
            best_fn=score,
            read_only=read_only,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
        )
        self._manager = ocp.CheckpointManager(directory, options=options)

    def save(self, step, state, metrics=None):
        """Starts to write ``state`` (a pytree of arrays), unless ``step`` is already there."""
        if step in self._manager.all_steps():
            return
        contents = ocp.args.Composite(
            state=ocp.args.StandardSave(state), environment=ocp.args.JsonSave(environment())
        )
        self._manager.save(step, args=contents, metrics=metrics)

    def latest(self):
        """The newest step, or None."""
        return self._manager.latest_step()

    def resolve(self, which):
        """The step that "best", "last" or a number names.

        Raises:
            WorkdirError: there is no such checkpoint.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise WorkdirError(f"{self.directory}: no checkpoint; train first")
        if which == "last":
            return steps[-1]
        if which == "best":
            best = self._manager.best_step()
            if best is None:
                raise WorkdirError(
                    f"{self.directory}: no checkpoint has a validation score yet; use last"
                )
            return best
        if not which.isdecimal() or int(which) not in steps:
            raise WorkdirError(
                f'{self.directory}: no checkpoint "{which}"; use best, last or one of '
                f"{', '.join(map(str, steps))}"
            )
        return int(which)

    def restore(self, step, abstract_state):
        """The state of ``step``, onto the shapes, types and placement of ``abstract_state``."""
        contents = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state), environment=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=contents)
        changes = [
            f"{key} was {value}, is {environment().get(key)}"
            for key, value in restored["environment"].items()
            if value != environment().get(key)
        ]
        if changes:
            warnings.warn(
                "this checkpoint was written elsewhere, so results agree to rounding and not "
                f"bit for bit: {'; '.join(changes)}",
                stacklevel=2,
            )
        return restored["state"]

    def wait(self):
        """Returns when all that was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self):
        self._manager.close()
