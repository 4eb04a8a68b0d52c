"""Labelled grids of images, drawn with Pillow: no display server, no plotting library."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN, LABEL_HEIGHT = 4, 18


def grid(rows, columns, labels=None, side=160):
    """Draws images in labelled columns.

    Args:
        rows: list of rows of images, [h, w] each in [-1, 1]; other values are clipped.
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
        draw.text((MARGIN + column * (side + MARGIN), 2), heading, fill="black", font=font)
    for number, row in enumerate(rows):
        top = LABEL_HEIGHT + number * row_height
        if labels:
            draw.text((MARGIN, top), labels[number], fill="black", font=font)
            top += LABEL_HEIGHT
        for column, image in enumerate(row):
            grey = np.clip(np.round((np.asarray(image, np.float64) + 1) * 127.5), 0, 255)
            tile = Image.fromarray(grey.astype(np.uint8)).resize(
                (side, side), Image.Resampling.NEAREST
            )
            picture.paste(tile, (MARGIN + column * (side + MARGIN), top))
    return picture


def comparison_row(source, fake, target):
    """[h, w, c] each in [-1, 1] -> the images of COMPARISON_COLUMNS."""
    error = np.abs(fake - target)
    return [source[..., 0], fake[..., 0], target[..., 0], np.minimum(4 * error[..., 0] - 1, 1)]


COMPARISON_COLUMNS = ("source", "fake", "real", "error, white from 0.5")
