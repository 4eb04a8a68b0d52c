"""What a header leaves open: spacings that are unknown or stated twice, and other axes."""

import itertools

import nibabel as nib
import numpy as np
import pytest

from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.imaging import volume_file
from jax_pix2pix.imaging.geometry import UNKNOWN, given
from jax_pix2pix.imaging.volume import Geometry, Volume
from tests.imaging.test_volume_file import write_header
from tests.input_pipeline.volumes import SPACING_MM, axes_affine, save

LARGE = (256, 256, 3)
SETTLED = given("2.5,0.7,0.8")


def _at(*origin, spacing=(1, 1, 1)):
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return affine


def _volume(folder, affine, shape=LARGE, name="ct.nii", **fields):
    values = np.resize(np.int16([-1000, 40]), shape)  # air and tissue
    return save(folder / name, values, affine, **fields)


# An unknown spacing.


def test_an_identity_affine_of_a_ct_states_no_spacing(tmp_path):
    path = _volume(tmp_path, np.eye(4))
    geometry = volume_file.read_geometry(path)
    assert geometry.spacing_mm is None and geometry.note == UNKNOWN
    with pytest.raises(DataError, match=r"ct\.nii does not .* give --spacing_mm=SLICES,ROWS"):
        geometry.needed_spacing_mm(path, "resampling")
    told = volume_file.read_geometry(path, SETTLED)
    assert told.spacing_mm == (2.5, 0.7, 0.8)
    np.testing.assert_allclose(told.affine, _at(0, 0, 0, spacing=(0.8, 0.7, 2.5)))
    assert told.note == "spacing as given, 2.5 x 0.7 x 0.8 mm"
    axes = volume_file.read_geometry(path, given("2.5,0.7,0.8", axes="LPS")).affine
    np.testing.assert_allclose(axes, np.diag([-0.8, -0.7, 2.5, 1]))


@pytest.mark.parametrize(
    ("affine", "shape"),
    [
        (_at(-90, -126, -72), (256, 256, 3)),  # a template of 1 mm, as MNI's
        (np.eye(4), (193, 229, 3)),  # smaller than a CT
        (_at(0, 0, 0, spacing=(1, 1, 2)), LARGE),
        (_at(0, 0, 0, spacing=(1.0001, 1, 1)), LARGE),
    ],
    ids=["with an origin", "small", "2 mm", "near 1 mm"],
)
def test_what_is_stated_is_a_fact_and_nothing_given_changes_it(tmp_path, affine, shape):
    path = _volume(tmp_path, affine, shape)
    for user in (given(), SETTLED):
        geometry = volume_file.read_geometry(path, user)
        np.testing.assert_allclose(geometry.spacing_mm, np.diag(affine)[2::-1], rtol=1e-6)
        assert not geometry.note


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd"])
def test_what_is_written_from_an_unknown_spacing_stays_unknown(tmp_path, ending):
    path = write_header(tmp_path / "ct.mha", ElementSpacing=None)
    volume = volume_file.read_ct(path)
    assert volume.spacing_mm is None
    written = tmp_path / f"out{ending}"
    volume_file.write_hu(written, volume.values, volume)
    assert volume_file.read_geometry(written).spacing_mm is None
    assert volume_file.read_geometry(written, SETTLED).spacing_mm == pytest.approx((2.5, 0.7, 0.8))


def test_what_is_written_from_a_given_spacing_states_it(tmp_path):
    volume = volume_file.read_ct(_volume(tmp_path, np.eye(4)), SETTLED)
    for ending in (".nii", ".mha", ".nrrd"):
        volume_file.write_hu(tmp_path / f"out{ending}", volume.values, volume)
        found = volume_file.read_geometry(tmp_path / f"out{ending}").spacing_mm
        assert found == pytest.approx((2.5, 0.7, 0.8))


@pytest.mark.parametrize(
    ("fields", "spacing"),
    [
        ({"ElementSpacing": None, "ElementSize": "1 2 4"}, (4, 1, 2)),
        ({"ElementSize": "1 2 4"}, (3, 1, 2)),  # beside ElementSpacing it is not the distance
        ({"ElementSpacing": None}, None),
    ],
)
def test_the_spacing_of_a_metaimage(tmp_path, fields, spacing):
    path = write_header(tmp_path / "ct.mha", **fields)  # columns run to the back
    assert volume_file.read_geometry(path).spacing_mm == spacing
    told = volume_file.read_geometry(path, SETTLED).spacing_mm
    assert told == pytest.approx(spacing or (2.5, 0.7, 0.8))


@pytest.mark.parametrize("field", ["space_directions", "space_origin"])
def test_an_nrrd_must_say_where_its_voxels_are(tmp_path, field):
    path = write_header(tmp_path / "ct.nrrd", **{field: None}, spacings="1 2 3")
    with pytest.raises(DataError, match=f'it has no "{field.replace("_", " ")}"'):
        volume_file.read_geometry(path)


def test_axes_without_directions(tmp_path):
    path = save(tmp_path / "ct.nii", np.zeros((5, 6, 7), np.int16), sform_code=0, qform_code=0)
    with pytest.raises(DataError, match=r"where the patient's left is .* such as --axes=LPS"):
        volume_file.read_geometry(path)
    geometry = volume_file.read_geometry(path, given(axes="LPS"))
    wide, high, deep = SPACING_MM
    np.testing.assert_allclose(geometry.affine, np.diag([-wide, -high, deep, 1]), rtol=1e-6)
    assert geometry.spacing_mm == pytest.approx((deep, high, wide))
    large = _volume(tmp_path, np.eye(4), name="large.nii", sform_code=0, qform_code=0)
    assert volume_file.read_geometry(large, given(axes="LPS")).spacing_mm is None
    assert volume_file.read_geometry(large, given("3,2,1", "LPS")).spacing_mm == (3, 2, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"spacing_mm": "1,1"}, "spacing_mm=1,1: use three numbers"),
        ({"spacing_mm": (1, 1, 0)}, "spacing_mm=1,1,0: use three numbers"),
        ({"spacing_mm": "a,b,c"}, "spacing_mm=a,b,c: use three numbers"),
        ({"axes": "LPL"}, "axes=LPL: use three of R or L, A or P, S or I"),
        ({"axes": "lps"}, "axes=lps: use three"),
        ({"geometry": "both"}, "geometry=both: use sform or qform"),
    ],
)
def test_refuses_options(options, said):
    with pytest.raises(ConfigError) as caught:
        given(**options)
    assert said in str(caught.value)


# A NIfTI's two affines.


def _two(path, sform, qform, shape=(40, 30, 20), qcode=1):
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_qform(qform, code=1)
    header.set_sform(sform, code=1)
    header["qform_code"] = qcode
    nib.Nifti1Image(np.resize(np.int16([-1000, 40]), shape), None, header).to_filename(path)
    return path


STATED = _at(-20, 30, -400, spacing=SPACING_MM)


@pytest.mark.parametrize(
    "other",
    [
        _at(-20, 30, -400, spacing=(0.7, 1.1, 5)),
        _at(-20, 30, -398, spacing=SPACING_MM),  # 2 mm are more than half of a slice
        _at(-20, 30, -400, spacing=(-0.7, 1.1, 2.5)),
    ],
    ids=["spacing", "origin", "mirrored"],
)
def test_two_affines_that_differ_are_refused_until_one_is_chosen(tmp_path, other):
    path = _two(tmp_path / "ct.nii", STATED, other)
    with pytest.raises(DataError) as caught:
        volume_file.read_geometry(path)
    told = "0.7 x 1.1 x 2.5 mm from (-20, 30, -400) mm towards RAS in its sform, but "
    assert told in str(caught.value)
    assert "in its qform: say which is right by --geometry=sform or --geometry=qform" in str(
        caught.value
    )
    for name, affine in (("sform", STATED), ("qform", other)):
        volume = volume_file.read_ct(path, given(geometry=name))
        np.testing.assert_allclose(volume.geometry.affine, affine, atol=1e-5)
        assert volume.geometry.note.startswith(f"placed by its {name}, from which its ")
        # What is written has the chosen one twice.
        volume_file.write_hu(tmp_path / "out.nii", volume.values, volume)
        np.testing.assert_allclose(nib.load(tmp_path / "out.nii").get_qform(), affine, atol=1e-5)
        assert not volume_file.read_geometry(tmp_path / "out.nii").note


def test_two_affines_may_differ_by_rounding(tmp_path):
    # Near half a turn a quaternion in float32 is least exact.
    for degrees in (7, 179.9, 180):
        angle = np.radians(degrees)
        turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        affine = _at(100.1, -50.3, 20, spacing=(0.7, 0.7, 2.5))
        affine[1:3, 1:3] = turn @ affine[1:3, 1:3]
        path = _two(tmp_path / "ct.nii", affine, affine, shape=(512, 512, 4))
        np.testing.assert_allclose(volume_file.read_geometry(path).affine, affine, atol=1e-4)
    shifted = _at(-20, 30, -399.5, spacing=(0.7, 1.1, 2.51))  # 0.2 of a slice
    volume_file.read_geometry(_two(tmp_path / "ct.nii", STATED, shifted))


def test_a_spacing_beside_the_sform_that_differs_is_refused_too(tmp_path):
    path = _two(tmp_path / "ct.nii", STATED, np.eye(4), qcode=0)
    with pytest.raises(DataError, match=r"but 1 x 1 x 1 mm in its pixdim: say .*--geometry=sform"):
        volume_file.read_geometry(path)
    assert volume_file.read_geometry(path, given(geometry="sform")).spacing_mm == pytest.approx(
        SPACING_MM[::-1]
    )


# The same voxels in other axes.


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_the_same_voxels_in_any_axes_are_one_grid(tmp_path, order):
    rng = np.random.default_rng(0)
    image = nib.Nifti1Image(rng.integers(0, 200, (5, 6, 7)).astype(np.uint8), _oblique())
    nib.save(image, tmp_path / "ct.nii")
    grid = volume_file.read_labels(tmp_path / "ct.nii")
    for signs in itertools.product((1, -1), repeat=3):
        turned = image.as_reoriented(np.array(list(zip(order, signs, strict=True))))
        nib.save(turned, tmp_path / "mask.nii")
        mask = volume_file.read_labels(tmp_path / "mask.nii")
        found = grid.geometry.reordered("ct", mask, "mask")
        np.testing.assert_array_equal(found, grid.values)
        mask.geometry.check_same_grid("mask", grid.geometry, "ct")


def _oblique(degrees=20):
    angle = np.radians(degrees)
    affine = axes_affine((0, 1, 2), (-1, -1, 1))
    turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[1:3, 1:3] = turn @ affine[1:3, 1:3]
    return affine


def test_axes_near_45_degrees_may_count_as_others():
    """Rows of a mask that count as slices of its CT, by rounding: values follow the voxels."""
    file = np.random.default_rng(0).integers(0, 9, (6, 5, 4))
    one = Geometry(_oblique(45 + 1e-5) / [*SPACING_MM, 1], file.shape)
    other = Geometry(_oblique(45 - 1e-5) / [*SPACING_MM, 1], file.shape)
    volume = Volume(other.to_pictures(file), other)
    assert volume.values.shape != one.shape
    found = one.reordered("ct", volume, "mask")
    np.testing.assert_array_equal(found, one.to_pictures(file))


def test_a_reversed_axis_may_differ_by_the_rounding_of_its_spacing():
    one, other = np.diag([0.703125, 0.703125, 2, 1]), np.diag([-0.70312, 0.70312, 2, 1])
    one[:3, 3], other[:3, 3] = (-180, -170, 50), (-180 + 511 * 0.703125, -170, 50)
    grid = Geometry(one, (512, 512, 9))
    grid.check_same_grid("ct", Geometry(other, grid.file_shape), "mask")
    other[0, 3] += 0.703125 / 2  # corners for centres
    with pytest.raises(DataError, match="its origin is"):
        grid.check_same_grid("ct", Geometry(other, grid.file_shape), "mask")


def test_a_mirrored_volume_is_not_the_same_set_of_voxels():
    affine = axes_affine((0, 1, 2), (-1, -1, 1))
    grid = Geometry(affine, (5, 6, 7))
    mirrored = affine @ np.diag([-1.0, 1, 1, 1])
    with pytest.raises(DataError) as caught:
        grid.check_same_grid("ct.nii", Geometry(mirrored, (5, 6, 7)), "mask.nii", "resample it")
    assert str(caught.value) == (
        "mask.nii is not on the voxels of ct.nii: its origin is -28.7, 12.25, 700 mm, not -31.5, "
        "12.25, 700 mm (in the order LPS of its axes, which are stored as RPS); correct the header "
        "that is wrong, or resample it"
    )
    # With the first voxel at the other end it is.
    mirrored[:3, 3] = affine[:3, :3] @ (4, 0, 0) + affine[:3, 3]
    grid.check_same_grid("ct.nii", Geometry(mirrored, (5, 6, 7)), "mask.nii")
    with pytest.raises(DataError, match=r"its shape is \(5, 6, 8\), not \(5, 6, 7\)"):
        grid.check_same_grid("ct.nii", Geometry(affine, (5, 6, 8)), "mask.nii")
