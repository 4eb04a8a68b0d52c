"""How a system's output is judged and shown, independent of its losses."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Task:
    """How the images of a system are judged.

    metrics: (fake, target) -> {name: one value a slice}; jit-able. A slice is an image, or one of
        the depth of a 3D example, so values are [n] or [n, d].
    summarise: ({name: float64 [slices]}, groups: a label a slice) -> {name: float}.
    protocols: {name: text}, which describe the values of ``summarise``.
    best_metric: its highest validation value marks the best checkpoint.
    row: (source, fake, target), NumPy [h, w, c] each -> pictures in [-1, 1], one for each of
        ``columns``, drawn ``side`` pixels wide.
    whole: whether a 3D example is judged and shown as a whole, by its first index: metrics are [n]
        and ``row`` gets [d, h, w, c].
    """

    metrics: Callable
    summarise: Callable
    protocols: dict[str, str]
    best_metric: str
    row: Callable
    columns: tuple[str, ...]
    side: int
    whole: bool = dataclasses.field(default=False, kw_only=True)
