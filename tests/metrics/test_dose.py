"""The surrogate dose against closed forms."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.metrics import gamma
from jax_pix2pix.metrics.beams import BeamGrid, Rays
from jax_pix2pix.metrics.dose import (
    MASS_ATTENUATION,
    OFF_CENTRE,
    Dosimetry,
    Sphere,
    depths_of,
    dose_at_volume,
    dvh,
    inside,
    mass_density,
    photon_dose,
    target_sphere,
)


def _head(shape=(24, 40, 40), spacing_mm=(3, 3, 3), seed=0):
    """(ct, sct, mask): an ellipsoid of soft tissue in a shell of bone; bone is missing in sct."""
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    distance = sum(np.square(x / 0.9) for x in axes)
    mask = distance < 1
    texture = gaussian_filter(np.random.default_rng(seed).normal(0, 200, shape), 1)
    ct = np.where(distance > 0.75, 900, 40 + texture)
    return np.where(mask, ct, -1000), np.where(mask, np.minimum(ct, 100), 300), mask


def _dose(hu, mask, spacing_mm, centre_mm, radius_mm, angles):
    """The dose of beams at any angles; the centre is from the first voxel of the body's box."""
    grid = BeamGrid(mask, spacing_mm)
    grid.rays = {a: Rays(grid.mask.shape[1:], grid.spacing_mm[1:], a) for a in angles}
    depths = depths_of(grid.of(hu, mass_density), grid, angles)
    return photon_dose(depths, grid, Sphere(np.asarray(centre_mm), radius_mm))


def test_mass_density_is_piecewise_linear():
    hu = [-3000, -1000, -550, -100, 0, 50, 100, 1550, 3000, 4000]
    expected = [0.00121, 0.00121, 0.465605, 0.93, 1, 1.038, 1.076, 1.9345, 2.793, 2.793]
    np.testing.assert_allclose(mass_density(hu), expected, rtol=1e-12)


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
@pytest.mark.parametrize("spacing_mm", [(3, 2, 2), (2, 1.5, 2.5)])
def test_depth_in_homogeneous_density(angle, spacing_mm):
    """Depth is half a voxel plus all voxels before it, in g / cm2, in more slices than a batch."""
    shape = (19, 20, 23)
    depth = Rays(shape[1:], spacing_mm[1:], angle).depth(np.full(shape, 1.1)) / 10
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
    radius = 55  # voxels of 2 mm
    rows, columns = np.indices((111, 111)) - 55
    mask = np.broadcast_to(rows**2 + columns**2 <= radius**2, (5, 111, 111)).copy()
    centre = np.array([8.0, 110.0, 110.0])
    found = _dose(np.zeros(mask.shape), mask, (4.0, 2.0, 2.0), centre, 67.0, (angle,))
    along = np.cos(np.radians(angle)), -np.sin(np.radians(angle))
    u, v = along[0] * rows + along[1] * columns, along[0] * columns - along[1] * rows
    depth_mm = 2 * (u + np.sqrt(np.maximum(radius**2 - v**2, 0)))
    expected = np.exp(-MASS_ATTENUATION * depth_mm / 10)
    axis = (abs(v) < 20) & (np.hypot(u, v) < radius - 3)
    assert axis.sum() > 3000
    np.testing.assert_allclose(found[2][axis], expected[axis], rtol=0.008)
    # The dose is zero outside the field, and half at its edge.
    assert found[2][(abs(v) > 45) & mask[2]].max() < 1e-3
    edge = (abs(abs(v) - 37) < 0.1) & (abs(u) < 30)
    np.testing.assert_allclose(found[2][edge] / expected[edge], 0.5, atol=0.04)


def test_turned_anatomy_in_turned_beams():
    ct, _, mask = _head()
    spacing_mm = (3, 3, 3)
    _, rows, columns = BeamGrid(mask, spacing_mm).mask.shape
    centre = np.array([30.0, 51.0, 66.0])
    there = _dose(ct, mask, spacing_mm, centre, 12, (20, 111))
    turned = [np.rot90(x, axes=(1, 2)).copy() for x in (ct, mask)]  # rows: columns from their end
    assert rows == columns
    centre = np.array([30.0, (columns - 1) * 3 - 66.0, 51.0])
    here = _dose(*turned, spacing_mm, centre, 12, (290, 21))
    np.testing.assert_allclose(here, np.rot90(there, axes=(1, 2)), rtol=1e-9, atol=1e-12)


def test_beams_come_from_where_they_say():
    """0 degrees is from the front, the first row; 90 from the patient's left, the last column."""
    mask = np.ones((6, 30, 30), bool)
    centre = np.array([9.0, 43.5, 43.5])
    front, left = (
        _dose(np.zeros(mask.shape), mask, (3, 3, 3), centre, 20, (angle,))[3] for angle in (0, 90)
    )
    assert front[2, 15] > 1.3 * front[27, 15] and left[15, 27] > 1.3 * left[15, 2]


def test_small_voxels_are_joined_into_blocks_that_keep_what_a_ray_passes():
    rng = np.random.default_rng(0)
    mask = np.zeros((9, 30, 31), bool)
    mask[1:8, 3:28, 2:29] = rng.random((7, 25, 27)) < 0.8
    mask[1, 3, 2] = mask[7, 27, 28] = True
    grid = BeamGrid(mask, (3.0, 0.9, 0.6))
    assert grid.spacing_mm == pytest.approx((3.0, 1.8, 1.8))
    assert grid.mask.shape == (7, 13, 9)
    hu = rng.normal(0, 300, mask.shape)
    density = grid.of(hu, mass_density)
    expected = np.where(mask, mass_density(hu), 0).sum((1, 2)) / (2 * 3)
    np.testing.assert_allclose(density.sum((1, 2)), expected[1:8])
    assert density[2, 3, 4] == pytest.approx(
        np.where(mask, mass_density(hu), 0)[3, 9:11, 14:17].mean()
    )


def test_dosimetry_is_normalised_on_the_real_ct(monkeypatch):
    monkeypatch.setattr(gamma, "SEARCHED", 30)  # points
    ct, sct, mask = _head()
    plan = Dosimetry(ct, mask, (3, 3, 3))
    scores, doses = plan.scores(sct)
    grid = plan.grid
    assert doses.reference[doses.target].mean() == pytest.approx(100)
    assert not doses.reference[~grid.mask].any()
    assert (doses.target | doses.body == grid.mask).all()
    real, synthetic = (
        photon_dose(depths_of(grid.of(hu, mass_density), grid), grid, target_sphere(grid))
        for hu in (ct, sct)
    )
    scale = 100 / real[doses.target].mean()
    np.testing.assert_allclose(doses.reference, scale * real)
    np.testing.assert_allclose(doses.evaluated, scale * synthetic)
    assert scores["delta_dmean"] == pytest.approx(doses.evaluated[doses.target].mean() - 100)
    assert 1 < scores["delta_d98"] < 10 and 1 < scores["delta_d2"] < 10  # less bone, more dose
    assert scores["gamma_local_1_1"] < scores["gamma_2_2"] <= 100
    assert scores["range.mean_mm"] > 1
    same, _ = plan.scores(np.where(mask, ct, 2000))
    gammas = {name: 100 for name in same if name.startswith("gamma")}
    assert same == pytest.approx({name: 0 for name in same} | gammas, abs=1e-9)


def test_the_mean_dose_of_a_target_off_the_centre(monkeypatch):
    """Of water instead of 100 HU: each beam has passed less mass per area."""
    monkeypatch.setattr(gamma, "SEARCHED", 1)
    mask = np.ones((20, 30, 30), bool)
    plan = Dosimetry(np.full(mask.shape, 100), mask, (4, 4, 4))
    scores, _ = plan.scores(np.zeros(mask.shape))
    grid, found = plan.grid, []
    for target in OFF_CENTRE:
        depth = depths_of(np.ones(mask.shape), grid)[target.angle]
        part = inside(grid, target_sphere(grid, target.shift, target.radius_mm))
        depth = depth[part]
        real, made = (np.exp(-MASS_ATTENUATION * rho * depth).mean() for rho in (1.076, 1))
        found.append(100 * made / real - 100)
    assert scores["delta_off_centre"] == pytest.approx(np.mean(found), rel=0.01)
    assert scores["delta_off_centre"] > 1


def test_targets_are_inside_the_body_and_off_its_centre():
    mask = np.zeros((10, 40, 40), bool)
    mask[:, 2:38, 2:8] = mask[:, 2:8, 2:38] = True  # L-shaped: its centroid is outside
    grid = BeamGrid(mask, (2, 2, 2))
    for target in (((0, 0, 0), 25), *(target[:2] for target in OFF_CENTRE)):
        sphere = target_sphere(grid, *target)
        z, y, x = np.rint(sphere.centre_mm / 2).astype(int)
        assert grid.mask[z, y, x] and sphere.radius_mm == pytest.approx(min(target[1], 0.3 * 20))
        assert inside(grid, sphere).any() and not (inside(grid, sphere) & ~grid.mask).any()
    cube = BeamGrid(np.ones((50, 50, 50), bool), (4, 4, 4))
    assert target_sphere(cube).radius_mm == 25
    front = target_sphere(cube, *OFF_CENTRE[0][:2])
    assert front.centre_mm.tolist() == pytest.approx([98, 48, 98], abs=2.1)
    assert front.radius_mm == 10


def test_dose_volume_histogram_of_a_ramp():
    ramp = np.arange(1000.0).reshape(10, 10, 10)
    structure = ramp >= 500
    assert dose_at_volume(ramp, structure, 98) == pytest.approx(500 + 0.02 * 499)
    assert dose_at_volume(ramp, structure, 2) == pytest.approx(500 + 0.98 * 499)
    np.testing.assert_allclose(
        dvh(ramp, structure, [0, 500, 750, 999, 1000]), [100, 100, 50, 0.2, 0]
    )


def test_refusals():
    ct, _, mask = _head()
    for spacing_mm in ((3, 3), (0, 3, 3)):
        with pytest.raises(ConfigError, match="three positive distances"):
            Dosimetry(ct, mask, spacing_mm)
