"""Whether the machine asked the run to stop; all processes agree on when."""

import itertools

import jax
from jax.experimental import multihost_utils

from jax_pix2pix.logs.process_log import logger

# JAX answers yes to the number after the highest that any process had used when the signal came.
# So all ask with consecutive numbers from the process's start on, whatever the run's step.
_NUMBERS = itertools.count(1)


def asked_to_stop():
    """True once, on all processes at the same call, after any of them got SIGTERM.

    All processes must call this equally often, after each step. A signal that came before the
    first call is answered at the first.
    """
    number = next(_NUMBERS)
    if not jax.distributed.is_initialized():
        return False
    stop = multihost_utils.reached_preemption_sync_point(number)
    if stop:
        logger.info("asked to stop")
    return stop
