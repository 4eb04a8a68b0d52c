"""Surface distances against MONAI, and against all distances between surface voxels."""

import time

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from monai.metrics.utils import get_edge_surface_distance
from scipy.spatial.distance import cdist

from jax_pix2pix.metrics.surface_distance import PROTOCOLS, surface_distances
from tests.masks import pairs

GRIDS = [
    ((23, 31), (1.0, 1.0)),
    ((23, 31), (0.4, 2.5)),
    ((7, 18, 20), (1.0, 1.0, 1.0)),
    ((7, 18, 20), (5.0, 0.7, 0.8)),
]
NAMES = [name for name in pairs((3, 3)) if "empty" not in name and "nothing" not in name]


def _by_definition(prediction, reference, spacing_mm):
    """Both scores from all distances between the surfaces' voxels."""
    surfaces = []
    for mask in (prediction, reference):
        padded = np.pad(mask, 1)
        inner = np.ones_like(mask)
        for axis in range(mask.ndim):
            for step in (-1, 1):
                neighbour = np.roll(padded, step, axis)
                inner &= neighbour[(slice(1, -1),) * mask.ndim]
        surfaces.append(np.argwhere(mask & ~inner) * np.array(spacing_mm))
    distances = cdist(*surfaces)
    directed = distances.min(1), distances.min(0)
    return {
        "hd95_mm": max(np.percentile(part, 95) for part in directed),
        "assd_mm": (directed[0].sum() + directed[1].sum()) / sum(map(len, directed)),
    }


@pytest.mark.parametrize(("shape", "spacing_mm"), GRIDS)
@pytest.mark.parametrize("name", NAMES)
def test_distances_are_monais_and_the_definitions(shape, spacing_mm, name):
    prediction, reference = pairs(shape)[name]
    distances = surface_distances(prediction, reference, spacing_mm)
    assert set(distances) == set(PROTOCOLS)
    assert distances == pytest.approx(_by_definition(prediction, reference, spacing_mm), rel=1e-12)

    one_hot = [torch.as_tensor(mask)[None, None] for mask in (prediction, reference)]
    options = {"include_background": True, "spacing": spacing_mm}
    # MONAI pools both surfaces' distances as well.
    assd = compute_average_surface_distance(*one_hot, symmetric=True, **options)
    assert distances["assd_mm"] == pytest.approx(assd.item(), rel=1e-6, abs=1e-6)
    hd95 = compute_hausdorff_distance(*one_hot, percentile=95, **options)
    # MONAI's float32 places the percentile up to 1e-4 of a place off.
    _, directed, _ = get_edge_surface_distance(
        *(mask[0, 0] for mask in one_hot), spacing=spacing_mm, symmetric=True
    )
    exact = max(torch.quantile(part.double(), 0.95).item() for part in directed)
    assert distances["hd95_mm"] == pytest.approx(exact, rel=1e-6, abs=1e-6)
    assert distances["hd95_mm"] == pytest.approx(hd95.item(), rel=1e-5, abs=1e-6)


def test_empty_masks():
    masks = pairs((7, 18, 20))
    assert surface_distances(*masks["both empty"], (1, 1, 1)) == {"hd95_mm": 0, "assd_mm": 0}
    for name in ("nothing predicted", "nothing there"):
        distances = surface_distances(*masks[name], (1, 1, 1))
        assert list(distances) == list(PROTOCOLS) and np.isnan(list(distances.values())).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_field_around_the_masks_changes_nothing(name):
    """Cropping to both masks' box is exact; only the field's border would move a surface."""
    prediction, reference = pairs((7, 18, 20))[name]
    margin = [(9, 2), (0, 30), (5, 0)]
    around = [np.pad(mask, margin) for mask in (prediction, reference)]
    spacing_mm = (5.0, 0.7, 0.8)
    expected = surface_distances(prediction, reference, spacing_mm)
    assert surface_distances(*around, spacing_mm) == expected
    assert surface_distances(reference, prediction, spacing_mm) == pytest.approx(expected)


@pytest.mark.slow
def test_a_volume_of_full_size_takes_seconds():
    """512 x 512 x 400 voxels with a liver of 7 million; most of the volume is cropped away."""
    z, y, x = np.ogrid[-80:80, -140:140, -155:155]
    liver = (z / 80) ** 2 + (y / 140) ** 2 + (x / 155) ** 2 < 1
    prediction, reference = np.zeros((2, 400, 512, 512), bool)
    reference[120:280, 110:390, 45:355] = liver
    prediction[123:283, 110:390, 45:355] = liver
    start = time.process_time()
    distances = surface_distances(prediction, reference, (1.5, 0.7, 0.7))
    assert time.process_time() - start < 15
    assert 4 < distances["hd95_mm"] <= 4.5 and 1 < distances["assd_mm"] < 3


def test_refusals():
    mask = np.ones((3, 4), bool)
    for spacing_mm in ((1, 1, 1), (0.0, 1.0), (np.nan, 1.0)):
        with pytest.raises(ValueError, match="spacing_mm"):
            surface_distances(mask, mask, spacing_mm)
    with pytest.raises(ValueError, match="masks are uint8 and bool: use bool"):
        surface_distances(mask.astype(np.uint8), mask, (1, 1))
