"""The surrogate dose against closed forms, its gamma index against pymedphys without shortcuts."""

import numpy as np
import pymedphys
import pytest
from scipy.ndimage import gaussian_filter

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.metrics import dose
from jax_pix2pix.metrics.dose import (
    MASS_ATTENUATION,
    dose_at_volume,
    dosimetry,
    dvh,
    gamma_pass_rate,
    mass_density,
    photon_dose,
    radiological_depth,
    target_sphere,
)

ALONG = {0: (1, 0), 90: (0, -1), 180: (-1, 0), 270: (0, 1)}


def _head(shape=(24, 40, 40), spacing_mm=(3, 3, 3), seed=0):
    """(ct, sct, mask): an ellipsoid of soft tissue in a shell of bone; bone is missing in sct."""
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    distance = sum(np.square(x / 0.9) for x in axes)
    mask = distance < 1
    texture = gaussian_filter(np.random.default_rng(seed).normal(0, 200, shape), 1)
    ct = np.where(distance > 0.75, 900, 40 + texture)
    return np.where(mask, ct, -1000), np.where(mask, np.minimum(ct, 100), 300), mask


def test_mass_density_is_piecewise_linear():
    hu = [-3000, -1000, -550, -100, 0, 50, 100, 1550, 3000, 4000]
    expected = [0.00121, 0.00121, 0.465605, 0.93, 1, 1.038, 1.076, 1.9345, 2.793, 2.793]
    np.testing.assert_allclose(mass_density(hu), expected, rtol=1e-12)


@pytest.mark.parametrize("angle", ALONG)
@pytest.mark.parametrize("spacing_mm", [(3, 2, 2), (2, 1.5, 2.5)])
def test_depth_in_homogeneous_density(angle, spacing_mm):
    """Depth is half a voxel plus all voxels before it, in g / cm2, in more slices than a batch."""
    shape = (19, 20, 23)
    depth = radiological_depth(np.full(shape, 1.1), spacing_mm, ALONG[angle])
    axis = 1 if angle in (0, 180) else 2
    voxels = np.arange(shape[axis]) + 0.5
    if angle in (90, 180):
        voxels = voxels[::-1]
    expected = np.expand_dims(voxels, [a for a in range(3) if a != axis])
    expected = np.broadcast_to(expected * spacing_mm[axis] / 10 * 1.1, shape)
    # At the border the density falls to zero within a voxel. Samples of rays see that exactly if
    # they lie on voxels, and otherwise with an error of step ** 2 / 4 over that voxel.
    blur_mm = 0 if spacing_mm[1] == spacing_mm[2] else 1.5**2 / 4 / 2.5
    inside = (slice(None), slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(depth[inside], expected[inside], atol=1e-12 + 0.11 * blur_mm)


@pytest.mark.parametrize("angle", [0, 30, 72, 200])
def test_depth_dose_in_a_water_cylinder(angle):
    """The dose on the central axis is exp(-mu d) at any angle; d is the chord to the surface."""
    spacing_mm, radius = (4.0, 1.0, 1.0), 55.0
    rows, columns = np.indices((121, 121)) - 60
    mask = np.broadcast_to(rows**2 + columns**2 < radius**2, (5, 121, 121)).copy()
    centre = np.array([8.0, 60.0, 60.0])
    found = photon_dose(np.zeros(mask.shape), mask, spacing_mm, centre, 30.0, (angle,))
    along = np.cos(np.radians(angle)), -np.sin(np.radians(angle))
    u, v = along[0] * rows + along[1] * columns, along[0] * columns - along[1] * rows
    expected = np.exp(-MASS_ATTENUATION * (u + np.sqrt(np.maximum(radius**2 - v**2, 0))) / 10)
    axis = (abs(v) < 20) & (np.hypot(u, v) < radius - 3)
    assert axis.sum() > 3000
    np.testing.assert_allclose(found[2][axis], expected[axis], rtol=0.004)
    # The dose is zero outside the field, and half at its edge.
    assert found[2][(abs(v) > 52) & mask[2]].max() < 1e-3
    edge = (abs(abs(v) - 37) < 0.1) & (abs(u) < 30)
    np.testing.assert_allclose(found[2][edge] / expected[edge], 0.5, atol=0.03)


def test_turned_anatomy_in_turned_beams():
    ct, _, mask = _head()
    spacing_mm = (3, 3, 3)
    centre = np.array([30.0, 51.0, 66.0])
    there = photon_dose(ct, mask, spacing_mm, centre, 12, (20, 111))
    turned = [np.rot90(x, axes=(1, 2)) for x in (ct, mask)]  # new rows: old columns from their end
    centre = np.array([30.0, 39 * 3 - 66.0, 51.0])
    here = photon_dose(*turned, spacing_mm, centre, 12, (290, 21))
    np.testing.assert_allclose(here, np.rot90(there, axes=(1, 2)), rtol=1e-9, atol=1e-12)


def test_beams_come_from_where_they_say():
    """0 degrees is from the front, the first row; 90 from the patient's left, the last column."""
    mask = np.ones((6, 30, 30), bool)
    centre = np.array([9.0, 43.5, 43.5])
    front, left = (
        photon_dose(np.zeros(mask.shape), mask, (3, 3, 3), centre, 20, (angle,))[3]
        for angle in (0, 90)
    )
    assert front[2, 15] > 1.3 * front[27, 15] and left[15, 27] > 1.3 * left[15, 2]


def test_dosimetry_is_normalised_on_the_real_ct():
    ct, sct, mask = _head()
    doses = dosimetry(ct, sct, mask, (3, 3, 3))
    assert doses.reference[doses.target].mean() == pytest.approx(100)
    assert not doses.reference[~mask].any() and (doses.target | doses.body == mask).all()
    centre, radius = target_sphere(mask, (3, 3, 3))
    fluence = photon_dose(ct, mask, (3, 3, 3), centre, radius)
    scale = 100 / fluence[doses.target].mean()
    np.testing.assert_allclose(
        doses.evaluated, scale * photon_dose(sct, mask, (3, 3, 3), centre, radius)
    )
    differences = doses.differences()
    assert differences["dmean"] == pytest.approx(doses.evaluated[doses.target].mean() - 100)
    assert 1 < differences["d98"] < 10 and 1 < differences["d2"] < 10  # less bone, more dose
    assert doses.gamma_pass_rate(1, 1) < doses.gamma_pass_rate(3, 3) <= 100
    same = dosimetry(ct, np.where(mask, ct, 2000), mask, (3, 3, 3))
    assert set(same.differences().values()) == {0} and same.gamma_pass_rate(2, 2) == 100


def test_target_is_inside_the_body():
    mask = np.zeros((10, 40, 40), bool)
    mask[:, 2:38, 2:8] = mask[:, 2:8, 2:38] = True  # L-shaped: its centroid is outside
    centre, radius = target_sphere(mask, (2, 1, 1))
    z, y, x = np.rint(centre / (2, 1, 1)).astype(int)
    assert mask[z, y, x] and radius == pytest.approx(0.3 * 20)
    doses = dosimetry(np.zeros(mask.shape), np.zeros(mask.shape), mask, (2, 1, 1))
    assert doses.target.any() and not (doses.target & ~mask).any()
    _, radius = target_sphere(np.ones((100, 100, 100), bool), (2, 2, 2))
    assert radius == 25


def test_dose_volume_histogram_of_a_ramp():
    ramp = np.arange(1000.0).reshape(10, 10, 10)
    structure = ramp >= 500
    assert dose_at_volume(ramp, structure, 98) == pytest.approx(500 + 0.02 * 499)
    assert dose_at_volume(ramp, structure, 2) == pytest.approx(500 + 0.98 * 499)
    np.testing.assert_allclose(
        dvh(ramp, structure, [0, 500, 750, 999, 1000]), [100, 100, 50, 0.2, 0]
    )


@pytest.mark.parametrize(("scale", "expected"), [(1, 100), (1.019, 100), (0.981, 100), (1.021, 0)])
def test_gamma_of_a_scaled_level_dose(scale, expected):
    level = np.full((6, 8, 10), 70.0)
    assert gamma_pass_rate(level, scale * level, (2, 2, 2), 2, 2) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("shift_mm", "expected"), [(1.85, 100), (2.1, 0)])
def test_gamma_of_a_shifted_ramp(shift_mm, expected):
    """On a slope of g % per mm gamma is shift x g / sqrt(2 ** 2 + (2 g) ** 2) at 2 % and 2 mm."""
    x = np.arange(41) * 0.5
    counted = (x >= 3) & (x <= 17)  # points beyond have a neighbour on one side only
    slope = 100 / 17
    assert (shift_mm * slope / np.hypot(2, 2 * slope) < 1) == (expected == 100)
    reference, shifted = (
        np.broadcast_to(slope * line, (8, 8, 41)) for line in (x * counted, x - shift_mm)
    )
    assert gamma_pass_rate(reference, shifted, (2, 2, 0.5), 2, 2) == expected


def _doses():
    ct, sct, mask = _head()
    doses = dosimetry(ct, sct, mask, (3, 3, 3))
    return doses.reference, doses.evaluated


@pytest.mark.slow
@pytest.mark.parametrize("criteria", [(1, 1), (1, 2)])
def test_gamma_is_pymedphys_without_shortcuts(criteria):
    reference, evaluated = _doses()
    axes = tuple(np.arange(n) * 3.0 for n in reference.shape)
    gamma = pymedphys.gamma(
        axes,
        reference,
        axes,
        evaluated,
        *criteria,
        lower_percent_dose_cutoff=10,
        max_gamma=1.1,
        interp_algo="scipy",
    )
    expected = 100 * np.mean(gamma[~np.isnan(gamma)] <= 1)
    found = gamma_pass_rate(reference, evaluated, (3, 3, 3), *criteria)
    assert 5 < found < 95
    assert found == pytest.approx(expected, abs=1e-9)


def test_gamma_of_evenly_spaced_points(monkeypatch):
    reference, evaluated = _doses()
    everywhere = gamma_pass_rate(reference, evaluated, (3, 3, 3), 1, 1)
    monkeypatch.setattr(dose, "SEARCHED", 500)
    some = gamma_pass_rate(reference, evaluated, (3, 3, 3), 1, 1)
    assert some != everywhere and some == pytest.approx(everywhere, abs=4)
    assert some == gamma_pass_rate(reference, evaluated, (3, 3, 3), 1, 1)


def test_refusals():
    ct, sct, mask = _head()
    for spacing_mm in ((3, 3), (0, 3, 3)):
        with pytest.raises(ConfigError, match="three positive distances"):
            dosimetry(ct, sct, mask, spacing_mm)
