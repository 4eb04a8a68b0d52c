"""Draws labelled grids of images with Pillow: no display server, no plotting library."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jax_pix2pix.safety.shown import shown

MARGIN, LABEL_HEIGHT = 4, 18


def grid(rows, columns, labels=None, side=160):
    """Draws images in labelled columns.

    Args:
        rows: list of rows of images, [h, w] or [h, w, 3] in [-1, 1]; other values are clipped.
        columns: a heading for each column.
        labels: a caption for each row, or none.
        side: pixels of one image in the picture; nearest neighbour, so that pixels stay visible.

    Returns:
        A PIL image, RGB.
    """
    font = ImageFont.load_default(size=12)
    row_height = side + MARGIN + (LABEL_HEIGHT if labels else 0)
    size = (len(columns) * (side + MARGIN) + MARGIN, LABEL_HEIGHT + len(rows) * row_height + MARGIN)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for column, heading in enumerate(columns):
        draw.text((MARGIN + column * (side + MARGIN), 2), shown(heading), fill="black", font=font)
    for number, row in enumerate(rows):
        top = LABEL_HEIGHT + number * row_height
        if labels:
            draw.text((MARGIN, top), shown(labels[number]), fill="black", font=font)
            top += LABEL_HEIGHT
        for column, image in enumerate(row):
            tile = Image.fromarray(_bytes(image)).resize((side, side), Image.Resampling.NEAREST)
            picture.paste(tile, (MARGIN + column * (side + MARGIN), top))
    return picture


def outlined(image, reference, predicted, side):
    """Outlines masks on an image: reference in green, predicted in red, both in yellow.

    Args:
        image: [h, w] in [-1, 1].
        reference, predicted: lists of masks, bool [h, w].
        side: pixels of the picture's side; lines are one pixel wide.

    Returns:
        [side, side, 3] in [-1, 1].
    """

    def enlarged(image):
        return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST))

    def outline(masks):
        drawn = np.zeros((side, side), bool)
        for mask in masks:
            inside = np.pad(enlarged(np.asarray(mask, np.uint8)) > 0, 1)
            core = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
            drawn |= inside[1:-1, 1:-1] & ~core
        return drawn

    picture = np.repeat(enlarged(_bytes(image))[..., None], 3, -1)
    green, red = outline(reference), outline(predicted)
    picture[green | red] = 0
    picture[red, 0] = 255
    picture[green, 1] = 255
    return picture / 127.5 - 1


def _bytes(image):
    """Scales [-1, 1] to uint8; other values are clipped."""
    return np.clip(np.round((np.asarray(image, np.float64) + 1) * 127.5), 0, 255).astype(np.uint8)
