"""Prints of pictures know the same one again, and no other."""

import numpy as np
import pytest
import scipy
from PIL import Image

from input_pipeline.prepared import SAMPLES
from jax_pix2pix.imaging.pixel_prints import SAME, distance, pixel_print
from jax_pix2pix.imaging.volume_file import read_ct


def smooth(seed, shape=(128, 128)):
    noise = np.random.default_rng(seed).normal(size=shape)
    image = scipy.ndimage.gaussian_filter(noise, 6)
    return ((image - image.min()) / np.ptp(image) * 255).astype(np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.astype(np.int16) * 7 - 1000,
        lambda image: 255 * (image / 255.0) ** 0.7,
        lambda image: np.clip(image, 20, 235),
        lambda image: np.asarray(Image.fromarray(image).resize((96, 96))),
        lambda image: image + np.random.default_rng(9).normal(0, 3, image.shape),
    ],
    ids=["scaled", "gamma", "windowed", "resized", "noisy"],
)
def test_the_same_picture_has_the_same_print(change):
    for seed in range(5):
        image = smooth(seed)
        assert distance(pixel_print([image]), pixel_print([change(image)])) < SAME


def test_other_pictures_have_other_prints():
    prints = [pixel_print([smooth(seed)]) for seed in range(20)]
    assert {len(one) for one in prints} == {64}
    others = [distance(one, other) for one in prints for other in prints if one is not other]
    assert min(others) > 2 * SAME


def test_two_chests_differ_and_one_without_its_end_does_not():
    one, other = (
        read_ct(SAMPLES / "chest_volumes" / name).values
        for name in ("subset0/TS-CTA-0001.mhd", "subset9/PR-LUNG1-0001.mhd")
    )
    assert distance(pixel_print(one), pixel_print(other)) > 2 * SAME
    assert distance(pixel_print(one), pixel_print(one[1:])) < SAME


def test_nothing_is_no_print():
    blank = pixel_print([np.full((32, 32), 7)])
    assert blank == "" and distance(blank, blank) == 1
    assert distance(pixel_print([smooth(0)]), pixel_print([smooth(0)] * 4)) == 1  # not comparable
