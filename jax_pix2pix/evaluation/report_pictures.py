"""Draws one patient's synthetic CT: slices with their error in HU, and dose-volume curves."""

import io
from typing import NamedTuple

import numpy as np

from jax_pix2pix.metrics.dose import dvh

DPI, PANEL_INCHES, BAR_INCHES = 80, 2.3, 0.9
MARGIN = 4  # pixels shown around the body
SHARES = (0.25, 0.5, 0.75)  # fractions of the slices at which axial ones are shown
RESLICED = 16  # fewest slices for coronal and sagittal pictures
SHOWN = (2, 98)  # percentiles in the body that are black and white
MAX_DOSE = 120  # % of the prescription, at the end of the curves


class Plane(NamedTuple):
    name: str
    place: tuple  # indexes a volume [d, h, w]; head or front come first
    shape_mm: tuple[float, float]  # height and width of what is shown


def slices_picture(source, ct, sct, mask, spacing_mm):
    """Draws source, real CT, synthetic CT and their difference in the body, in some slices.

    Args:
        source: stored values [d, h, w].
        ct, sct: HU [d, h, w], slices from feet to head, rows from front to back.
        mask: bool [d, h, w], the body; not empty.
        spacing_mm: between slices, rows and columns, or None.

    Returns:
        PNG, bytes.
    """
    box = _box(mask)
    source, ct, sct, mask = (volume[box] for volume in (source, ct, sct, mask))
    difference = np.where(mask, np.subtract(sct, ct, dtype=np.float64), np.nan)
    limit = max(1.0, float(np.nanpercentile(np.abs(difference), SHOWN[1])))
    hu = dict(zip(("vmin", "vmax"), _shown(ct[mask]), strict=True), cmap="gray")
    panels = {
        "source": (
            source,
            dict(zip(("vmin", "vmax"), _shown(source[mask]), strict=True), cmap="gray"),
        ),
        "CT": (ct, hu),
        "synthetic CT": (sct, hu),
        "synthetic CT - CT": (difference, {"vmin": -limit, "vmax": limit, "cmap": "RdBu_r"}),
    }
    planes = planes_of(mask, spacing_mm)
    heights = [plane.shape_mm[0] / plane.shape_mm[1] for plane in planes]
    width = PANEL_INCHES * len(panels) + 3 * BAR_INCHES
    size = width, PANEL_INCHES * sum(heights) + 0.25 * len(planes) + 0.25
    figure = _figure(size)
    axes = figure.subplots(len(planes), len(panels), squeeze=False, height_ratios=heights)
    for column, (title, (volume, style)) in zip(axes.T, panels.items(), strict=True):
        column[0].set_title(title, fontsize=10)
        for panel, plane in zip(column, planes, strict=True):
            picture = volume[plane.place]
            rows, columns = picture.shape
            aspect = (plane.shape_mm[0] / rows) / (plane.shape_mm[1] / columns)
            image = panel.imshow(picture, aspect=aspect, interpolation="nearest", **style)
            panel.set(xticks=[], yticks=[], facecolor="0.8")
        if volume is not source:
            bar = figure.colorbar(image, ax=column.tolist(), shrink=0.6, pad=0.02)
            bar.set_label("HU", fontsize=8)
            bar.ax.tick_params(labelsize=8)
    for panel, plane in zip(axes[:, 0], planes, strict=True):
        panel.set_ylabel(plane.name, fontsize=9)
    return _png(figure)


def dvh_picture(dosimetry):
    """Draws dose-volume curves of target and body on both volumes of a Dosimetry. -> PNG, bytes."""
    levels = np.linspace(0, MAX_DOSE, 241)
    figure = _figure((6, 3))
    panel = figure.subplots()
    for name, structure, colour in (
        ("target", dosimetry.target, "tab:red"),
        ("body without target", dosimetry.body, "tab:blue"),
    ):
        for what, dose, line in (
            ("CT", dosimetry.reference, "-"),
            ("synthetic CT", dosimetry.evaluated, "--"),
        ):
            volume = dvh(dose, structure, levels)
            panel.plot(levels, volume, line, color=colour, label=f"{name}, {what}", linewidth=1.5)
    panel.set(xlim=(0, MAX_DOSE), ylim=(0, 102), xlabel="dose, % of the prescription")
    panel.set_ylabel("% of the volume")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return _png(figure)


def _shown(values):
    """Computes the values shown as black and white, at least 1 apart, from percentiles."""
    low, high = np.percentile(values, SHOWN)
    return float(low), float(max(high, low + 1))


def _box(mask):
    """Selects all slices, and within them the body with a margin."""
    in_plane = (mask.any((0, 2)), mask.any((0, 1)))
    ends = (np.flatnonzero(held)[[0, -1]].tolist() for held in in_plane)
    return (
        slice(None),
        *(slice(max(0, first - MARGIN), last + MARGIN + 1) for first, last in ends),
    )


def planes_of(mask, spacing_mm):
    """Chooses axial slices of the body, and if the volume is deep and its spacing known a coronal
    and a sagittal one through its middle."""
    between, row_mm, column_mm = spacing_mm or (1, 1, 1)
    depth, rows, columns = mask.shape
    held = np.flatnonzero(mask.any((1, 2)))
    chosen = dict.fromkeys(int(held[int(share * (len(held) - 1))]) for share in reversed(SHARES))
    planes = [
        Plane(f"axial {k + 1} of {depth}", (k,), (rows * row_mm, columns * column_mm))
        for k in chosen
    ]
    if spacing_mm is not None and depth >= RESLICED:
        upright = slice(None, None, -1)  # slices run from the feet
        _, row, column = (round(place) for place in np.argwhere(mask).mean(0))
        tall = depth * between
        planes.append(Plane("coronal", (upright, row), (tall, columns * column_mm)))
        planes.append(Plane("sagittal", (upright, slice(None), column), (tall, rows * row_mm)))
    return planes


def _figure(size):
    from matplotlib.figure import Figure  # imported late: it is slow, and few commands draw

    return Figure(figsize=size, dpi=DPI, layout="constrained")


def _png(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no display server

    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()
