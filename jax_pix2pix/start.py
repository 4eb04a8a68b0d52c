"""What belongs to one start of a run."""

import dataclasses
from collections.abc import Callable, Sequence

from jax_pix2pix.logs.clock import Clock


@dataclasses.dataclass(frozen=True)
class Start:
    """How a process starts, or resumes, a run. Only init_from changes what is trained.

    allowed: config fields that may differ from the workdir's, see `workdir_files.CHANGEABLE`.
    clock: the process's Clock; by default it starts here.
    trackers: as for `Logbook`.
    coordinator: address of process 0, for the log.
    submission: what starts the run again if it is stopped or killed, as for `restarts.counted`.
    profile_steps: (first, last) of the steps, of each scale, of which a profile is written.
    init_from: a workdir, or its url, with whose weights the run begins instead of fresh ones; see
        `initial_weights`. A run that is resumed gives the same again.
    init_checkpoint: of that run: "best", "last" or a step as text.
    checked: whether `train.check` has been called with this already, before a store was read.
    """

    allowed: Sequence[str] = ()
    clock: Clock = dataclasses.field(default_factory=Clock)
    trackers: Sequence[Callable] = ()
    coordinator: str | None = None
    submission: str | None = None
    profile_steps: tuple[int, int] | None = None
    init_from: str | None = None
    init_checkpoint: str = "last"
    checked: bool = False
