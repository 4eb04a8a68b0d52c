"""The embedded simulated radiographs, and the projection that makes them."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.morphology import convex_hull_image

from input_pipeline import samples

SAMPLES = Path(samples.__file__).parent
XRAY = SAMPLES / "xray_simulated"
SIDE = 286
EXPOSURES = 3  # of each angle
VIEWS = range(60)


@pytest.fixture
def xray():
    """The module that makes the sample. It needs SimpleITK; reading the sample does not."""
    pytest.importorskip("SimpleITK")
    from input_pipeline.samples import xray_simulated

    return xray_simulated


def read(kind, view):
    with Image.open(XRAY / kind / f"TS-CTA-0001_view_{view:04d}.png") as image:
        assert image.mode == "L"
        return np.asarray(image)


def volume(array, spacing_mm):
    """An image of [z, y, x], centred on the origin."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_mm)
    image.SetOrigin([-(n - 1) / 2 * s for n, s in zip(image.GetSize(), spacing_mm, strict=True)])
    return image


def test_layout_is_complete():
    names = {f"TS-CTA-0001_view_{view:04d}.png" for view in VIEWS}
    for kind in ("img", "mask"):
        assert {path.name for path in (XRAY / kind).iterdir()} == names
    assert {path.name for path in XRAY.iterdir()} == {"img", "mask"}
    assert sum(path.stat().st_size for path in XRAY.rglob("*.png")) <= 3_000_000


def test_its_folder_and_its_section_of_the_readme_call_it_simulated():
    text = (SAMPLES / "README.md").read_text()
    title, body = re.search(r"^## (.*`xray_simulated/`.*)\n([^#]+)", text, re.M).groups()
    assert "imulated" in title and "simulated" in body


@pytest.mark.parametrize("view", VIEWS)
def test_pairs_are_well_formed(view):
    image, mask = read("img", view), read("mask", view)
    assert image.shape == mask.shape == (SIDE, SIDE)
    assert set(np.unique(mask)) == {0, 255}
    assert np.ptp(image) > 180
    assert ndimage.label(mask)[1] == 2  # lungs
    assert not (mask[[0, -1]].any() or mask[:, [0, -1]].any())
    assert 0.3 < (mask > 0).mean() < 0.4
    # A shifted mask would have bright tissue within and lung around it.
    ring = ndimage.binary_dilation(mask, iterations=6) & (mask == 0)
    assert image[mask > 0].mean() < image[ring].mean() - 25


def test_exposures_of_an_angle_are_neighbours_of_one_mask():
    for first in VIEWS[::EXPOSURES]:
        for view in range(first + 1, first + EXPOSURES):
            np.testing.assert_array_equal(read("mask", view), read("mask", first))
            assert (read("img", view) != read("img", first)).mean() > 0.8
        if first:
            assert (read("mask", first) != read("mask", first - 1)).any()


def chest_ct_projections(angle_deg):
    """Attenuation and lung length in the pictures' rows and columns, from the chest CT slices."""
    hu, lungs = [], []
    for png in sorted((SAMPLES / "chest_ct/train/clean").glob("*.png")):
        with Image.open(png) as image:
            hu.append(np.asarray(image) * (1400 / 255) - 1000)
        lungs.append(np.load(str(png).replace("slice", "lung_mask").replace(".png", ".npy")))
    found = []
    for array in (0.0206 * (1 + np.array(hu) / 1000), np.array(lungs, float)):
        # Axes y and x: the patient turns against the viewer.
        turned = ndimage.rotate(array, angle_deg, axes=(2, 1), order=1, reshape=False)
        lengths = turned.sum(axis=1) * 2.5
        # Slice k, from 14 on, lies 1.5 k mm above the scan's lowest; columns are 2.5 mm wide.
        rows, columns = np.indices((SIDE, SIDE), float)
        where = ((285 - rows) / 1.5 - 14, (columns - 142.5) / 2.5 + 63.5)
        found.append(ndimage.map_coordinates(lengths, where, order=1, cval=np.nan))
    return found


@pytest.mark.parametrize(("angle_deg", "view"), [(-19, 0), (-1, 27), (19, 57)])
def test_pictures_are_projections_of_the_chest_ct(xray, angle_deg, view):
    """SciPy projects the slices of chest_ct, which are at 2.5 mm and up to 400 HU."""
    attenuation, lung_mm = chest_ct_projections(angle_deg)
    _, black, white, gamma = xray.EXPOSURES[0]
    measured = (read("img", view) / 255) ** (1 / gamma) * (white - black) + black
    shown = (measured > black + 0.1) & (measured < white - 0.1)
    both = shown & ~np.isnan(attenuation) & (read("mask", view) > 0)  # off the bright bones
    assert both.mean() > 0.25
    assert np.abs(attenuation - measured)[both].mean() < 0.1
    mask = read("mask", view) > 0
    seen = ~np.isnan(lung_mm)
    # Every ray of the field crosses lung, if only briefly at its edges. All lung that nothing
    # covers is in the field.
    assert (lung_mm[mask & seen] > 2).mean() > 0.995
    assert mask[seen & (lung_mm > 130)].mean() > 0.98


def test_projection_sums_along_the_rays(xray):
    array = np.random.default_rng(0).random((26, 21, 30))
    found = xray.project(volume(array, (1.0, 1.5, 1.0)), (0.0, 0.0, 0.0), 0)
    expected = np.zeros((SIDE, SIDE))
    expected[130:156, 128:158] = array.sum(axis=1)[::-1] * 1.5
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("angle_deg", [-19, 40])
def test_projection_turns_the_viewer(xray, angle_deg):
    array = np.zeros((26, 21, 30))
    array[1:-1, 1:-1, 1:-1] = np.random.default_rng(0).random((24, 19, 28))
    found = xray.project(volume(array, (1.0, 1.5, 1.0)), (0.0, 0.0, 0.0), angle_deg)
    along, across = np.mgrid[-60:61, -142.5:143]  # steps along the ray, mm across it
    along *= 1.5
    # The viewer turns from the front (-y) towards the patient's left (+x).
    angle = np.radians(angle_deg)
    x = across * np.cos(angle) - along * np.sin(angle)
    y = across * np.sin(angle) + along * np.cos(angle)
    where = (y / 1.5 + 10, x + 14.5)
    rows = [ndimage.map_coordinates(s, where, order=1).sum(axis=0) * 1.5 for s in array[::-1]]
    np.testing.assert_allclose(found[130:156], rows, atol=1e-9)


def test_attenuation_is_that_of_water_air_and_dense_bone(xray):
    hu = np.array([[[-1094, -1000, 0, 1000]]], np.int16)
    import SimpleITK as sitk

    found = sitk.GetArrayFromImage(xray.attenuation_per_mm(sitk.GetImageFromArray(hu)))
    np.testing.assert_allclose(found.ravel(), [0, 0, 0.0206, 0.0412], atol=1e-12)


def test_thorax_is_the_hull_of_the_lungs_above(xray):
    lungs = np.random.default_rng(0).random((4, 40, 30)) > 0.99
    lungs[3] = False  # above the apices
    found = xray.sitk.GetArrayFromImage(xray.thorax(volume(lungs.astype(np.uint8), (1, 1, 1))))
    above = np.zeros((40, 30), bool)
    for k in (3, 2, 1, 0):
        above |= lungs[k]
        expected = convex_hull_image(above, offset_coordinates=False) if k < 3 else above
        np.testing.assert_array_equal(found[k], expected)


def test_lung_field_leaves_out_what_lies_behind_the_heart(xray):
    lung_mm, thorax_mm = np.zeros((2, 60, 60))
    lung_mm[10:50, 10:50], thorax_mm[10:50, 10:50] = 60, 100  # 40 mm of other tissue
    lung_mm[10:50, 10:20], thorax_mm[10:50, 10:20] = 4, 10  # hardly lung
    thorax_mm[40:50] = 120  # 60 mm
    expected = np.zeros((60, 60), np.uint8)
    expected[10:40, 20:50] = 255
    found = xray.lung_field(lung_mm, thorax_mm)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_lung_field_closes_over_hilar_vessels(xray):
    lung_mm, thorax_mm = np.full((2, 60, 60), 100.0)
    lung_mm[30:34, :] = 20
    assert (xray.lung_field(lung_mm, thorax_mm) == 255).all()


def test_exposure_counts_photons(xray):
    """Counts of mean and variance n give a logarithm of variance 1 / n."""
    linear = xray.Exposure(photons=1e4, black=0.0, white=8.0, gamma=1.0)
    flat = np.full((SIDE, SIDE), 2.0)
    found = xray.expose(flat, linear, seed=3) / 255 * 8
    assert found.mean() == pytest.approx(2.0, abs=2e-3)
    assert found.std() == pytest.approx(np.sqrt(np.exp(2.0) / 1e4), rel=0.1)
    np.testing.assert_array_equal(found, xray.expose(flat, linear, seed=3) / 255 * 8)
    assert (xray.expose(flat, linear, seed=4) / 255 * 8 != found).any()


def test_exposure_maps_black_and_white(xray):
    exposure = xray.Exposure(photons=1e14, black=1.0, white=5.0, gamma=0.5)  # without noise
    attenuation = np.array([[0.0, 1.0, 2.0, 5.0, 9.0]])
    assert xray.expose(attenuation, exposure, seed=0).tolist() == [[0, 0, 128, 255, 255]]
