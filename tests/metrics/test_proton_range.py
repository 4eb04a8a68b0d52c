"""Water-equivalent paths against closed forms: slabs of known HU, at several angles."""

import numpy as np
import pytest

from jax_pix2pix.metrics import proton_range
from jax_pix2pix.metrics.beams import ANGLES, BeamGrid
from jax_pix2pix.metrics.proton_range import STOPPING_POWER, errors, paths, stopping_power


def test_stopping_power_is_piecewise_linear():
    hu, power = np.transpose(STOPPING_POWER)
    np.testing.assert_allclose(stopping_power(hu), power)
    np.testing.assert_allclose(
        stopping_power([-3000, 38.5, 868, 9000]), [0.0001, 1.0375, 1.405, 2.077]
    )
    assert stopping_power(0) == 1


def test_path_through_slabs_from_the_front():
    """10 mm of air, 20 of bone, and water up to the far side of a sphere about row 40."""
    hu = np.zeros((30, 60, 40))
    hu[:, :10], hu[:, 10:30] = -1000, 868
    grid = BeamGrid(np.ones(hu.shape, bool), (1.9, 1.9, 1.9))
    grid.rays = {0: grid.rays[0]}
    step = 1.9
    centre, radius = np.array([15, 40, 20]) * step, 9.0
    found = paths(grid.of(hu, stopping_power), grid, [(centre, radius)])
    # Rays are a voxel apart, and half a voxel beside the middle of the 40 columns or on it.
    z = (np.arange(30) - 15)[:, None] * step
    x = (np.arange(-50, 50) + grid.rays[0].places(np.zeros(2))[1] % 1) * step
    squared = radius**2 - z**2 - x**2
    half = np.sqrt(squared[squared >= 0])
    # Voxel k reaches from k - 1/2 to k + 1/2, so that the first face lies at -1/2.
    expected = step * (10 * 0.001 + 20 * 1.405 + 10.5) + half
    np.testing.assert_allclose(np.sort(found), np.sort(expected), rtol=1e-9)


def test_path_in_a_cylinder_is_its_chord_at_every_angle():
    rows, columns = np.indices((121, 121)) - 60
    mask = np.broadcast_to(rows**2 + columns**2 < 55**2, (6, 121, 121)).copy()
    grid = BeamGrid(mask, (4.0, 1.1, 1.1))
    power = grid.of(np.full(mask.shape, 868.0), stopping_power)
    sphere = np.array([8.0, 59.4, 59.4]), 5.0  # from the body's box, which begins at voxel 6
    found = paths(power, grid, [sphere])
    # On the axis 55 voxels of 1.1 mm and then the sphere's radius; elsewhere up to 5 mm less.
    expected = 1.405 * (55 * 1.1 + 5)
    assert abs(found.max() - expected) < 0.8 and found.min() > expected - 1.405 * 6
    each = len(found) / len(ANGLES)
    assert each == pytest.approx(np.pi * 25 / 4.4, rel=0.25)


def test_a_sphere_that_leaves_the_body_ends_with_it():
    hu = np.zeros((9, 20, 20))
    grid = BeamGrid(np.ones(hu.shape, bool), (2.0, 2.0, 2.0))
    power = grid.of(hu, stopping_power)
    grid.rays = {0: grid.rays[0]}
    found = paths(power, grid, [(np.array([8.0, 36.0, 20.0]), 8.0)])
    assert found.max() == pytest.approx(40)


def test_errors_are_without_sign():
    reference = np.full(100, 50.0)
    evaluated = reference + np.where(np.arange(100) % 2, 3.0, -1.0)
    assert errors(reference, evaluated) == {"mean_mm": pytest.approx(2), "p95_mm": pytest.approx(3)}
    assert np.isnan(errors(reference[:0], reference[:0])["mean_mm"])


def test_too_much_bone_is_a_longer_path():
    """20 mm of 868 HU instead of 0 HU: each path through it is 20 x 0.405 mm longer."""
    hu = np.zeros((20, 60, 60))
    grid = BeamGrid(np.ones(hu.shape, bool), (2.0, 2.0, 2.0))
    grid.rays = {0: grid.rays[0]}
    sphere = np.array([20.0, 90.0, 60.0]), 10.0
    bone = hu.copy()
    bone[:, 5:15] = 868
    found = [paths(grid.of(x, stopping_power), grid, [sphere]) for x in (hu, bone)]
    assert proton_range.errors(*found)["mean_mm"] == pytest.approx(20 * 0.405)
