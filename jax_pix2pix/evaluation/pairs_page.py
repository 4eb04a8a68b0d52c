"""Writes the page by which a person judges the pairs of a prepared data set. No JAX."""

import hashlib
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from jax_pix2pix.evaluation import report
from jax_pix2pix.imaging.pictures import grid, outlined
from jax_pix2pix.metrics import mutual_information
from jax_pix2pix.safety import safe_files

WORST, RANDOM = 20, 10  # pairs of which there are pictures
TABLE = 2000  # rows, of the worst pairs: some 200 bytes each
SIDE = 128  # pixels of a slice in a picture
COLOURS = 64  # of a picture
SHOWN = (1, 99)  # percentiles that are black and white


class Row(NamedTuple):
    """A pair, or all pairs of a patient; texts are shown as they are."""

    patient: str
    split: str
    first: str  # names of two files, the first of so many
    second: str
    files: int
    slices: int
    overlap: float | None
    mutual_information: float | None
    is_poor: bool
    picture: bytes = b""  # PNG


def ranked(rows):
    """Rows with the worst first: by overlap, then by mutual information; undefined ones last."""

    def key(row):
        values = row.overlap, row.mutual_information
        return [(value is None, value or 0) for value in values], row.patient

    return sorted(rows, key=key)


def chosen(rows):
    """The numbers of ranked rows that get pictures: the worst, and others by a hash of names."""
    rest = range(min(WORST, len(rows)), len(rows))

    def drawn(number):
        return hashlib.sha256(f"{rows[number].patient}\0{rows[number].split}".encode()).digest()

    return [*range(min(WORST, len(rows))), *sorted(sorted(rest, key=drawn)[:RANDOM])]


def picture(firsts, seconds, is_mask, bodies, labels):
    """Draws slices of a pair, in two rows.

    Args:
        firsts, seconds: lists of [h, w] of one slice each; seconds are masks if `is_mask`.
        bodies: None, or [(body in the first, body in the second)], bool [h, w].
        labels: of the slices.

    Returns:
        PNG, bytes: of a mask, the image without and with its outline; else both images with the
        outlines of the first's body in red, the second's in green, and both in yellow.
    """
    above, below = [], []
    for number, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        image = _scaled(first)
        if is_mask:
            above.append(np.repeat(_enlarged(image)[..., None], 3, -1))
            below.append(outlined(image, [second > 0], [], SIDE))
        else:
            body, other = bodies[number]
            above.append(outlined(image, [other], [body], SIDE))
            below.append(outlined(_scaled(second), [other], [body], SIDE))
    drawn = grid([above, below], labels, side=SIDE).quantize(COLOURS)
    file = io.BytesIO()
    drawn.save(file, "png", optimize=True)
    return file.getvalue()


def write(path, title, facts, rows, overlap_name, is_mask):
    """Writes the page, following no link. rows: ranked Rows, some with pictures; facts: a dict."""
    outlines = (
        "Each slice without and with the outline of its mask, in green."
        if is_mask
        else "Both images of each slice, with the outline of the body in the upper one in red, of "
        "that in the lower one in green, and in yellow where they agree."
    )
    html = report.render(
        "pairs.html",
        title=title,
        facts=facts,
        rows=rows[:TABLE],
        count=len(rows),
        pictures=[row for row in rows if row.picture],
        outlines=outlines,
        overlap_name=overlap_name,
        protocols={
            overlap_name: "bodies by Otsu's threshold on some slices and a coarse grid; ! marks "
            "low values",
            "mutual information": mutual_information.PROTOCOL,
        },
    )
    safe_files.write(path, html, path.parent)


def _scaled(plane):
    low, high = np.percentile(plane, SHOWN)
    return np.clip((plane.astype(np.float32) - low) / max(high - low, 1) * 2 - 1, -1, 1)


def _enlarged(image):
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.NEAREST))
