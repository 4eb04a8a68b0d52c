"""A profile of a few steps of a run, for TensorBoard or Perfetto."""

import os

import jax

from jax_pix2pix.logs.messages import messages
from jax_pix2pix.runs.stores.remote_workdir import as_given


class Profile:
    """Traces the steps from `first` to `last`, both included, on every process.

    Each process writes into a folder of its own, profile/process_NNNN in the workdir, since two of
    one host would give their files the same name. A run that goes on from a later step than `first`
    traces nothing.

    Args:
        steps: (first, last), or None for no profile.
    """

    def __init__(self, steps, workdir):
        self._first, self._last = steps or (0, 0)
        self._folder = os.path.join(workdir, "profile", f"process_{jax.process_index():04d}")
        self._tracing = False

    def before(self, step):
        if step == self._first:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def after(self, step, state):
        """state: what the step computed, for which it waits at the last one."""
        if self._tracing and step == self._last:
            jax.block_until_ready(state)
            self.close()

    def close(self):
        """Writes the trace, also of a run that ends before the last step; a second call is none."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
            if jax.process_index() == 0:
                messages.info(f"profile: {as_given(self._folder)}")
