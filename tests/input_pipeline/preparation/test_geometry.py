"""Source volumes that leave their geometry open: LiTS's identity affines, and what settles them."""

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from input_pipeline.datasets.liver_ct import liver_ct_dataset_builder as liver_ct
from input_pipeline.datasets.luna16 import luna16_dataset_builder as luna16
from input_pipeline.datasets.mri_ct import mri_ct_dataset_builder as mri_ct
from input_pipeline.prepare import prepare
from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.geometry import UNKNOWN
from tests import commands
from tests.input_pipeline.conftest import read_split
from tests.input_pipeline.pairs import body, image, write_pair
from tests.input_pipeline.volumes import save, without_spacing

OPTIONS = {"stored_size": 32, "test_fraction": 0.3, "validation_fraction": 0.3}
SPLITS = ("train", "validation", "test")
SIDE = 256  # pixels of a plane
STATED = np.array([[-0.8, 0, 0, 90], [0, -0.7, 0, 80], [0, 0, 2.5, -300], [0, 0, 0, 1]])


def _write(folder, number, affine):
    rng = np.random.default_rng(number)
    ct = np.full((SIDE, SIDE, 2), -1000, np.int16)
    ct[5:120, 10:60] = rng.integers(0, 80, (115, 50, 2))  # a body, in which the liver lies
    labels = np.zeros(ct.shape, np.uint8)
    labels[10:99, 20:40] = 1
    save(folder / f"volume-{number}.nii", ct, affine)
    save(folder / f"segmentation-{number}.nii", labels, affine)


@pytest.fixture
def lits(tmp_path):
    """Volumes 28 and 29 have an identity affine, 0 and 1 state where they are."""
    source = tmp_path / "source"
    source.mkdir()
    for number, affine in ((0, STATED), (1, STATED), (28, np.eye(4)), (29, np.eye(4))):
        _write(source, number, affine)
    return source


def _spacings(source, tmp_path, **options):
    """({patient: stored spacing in mm}, notes of the preparation)."""
    directory = prepare("liver_ct", source, tmp_path / "data", **OPTIONS, **options)
    records = [record for split in SPLITS for record in read_split(directory, split)]
    notes = json.loads((directory / "preparation.json").read_text())["notes"]
    return {record["patient"]: record["spacing_mm"] for record in records}, notes


def _stored(slices, rows, columns):
    return pytest.approx((slices, rows * SIDE / 32, columns * SIDE / 32))


def test_volumes_of_unknown_spacing_are_stored_as_such_and_told(lits, tmp_path, capsys):
    spacings, notes = _spacings(lits, tmp_path)
    assert f"{UNKNOWN}: volume-28, volume-29" in notes
    assert f"{UNKNOWN}: volume-28, volume-29" in capsys.readouterr().out
    for patient in ("volume-0", "volume-1"):
        assert spacings[patient] == _stored(2.5, 0.7, 0.8)
    for patient in ("volume-28", "volume-29"):
        assert spacings[patient].tolist() == [0, 0, 0]


def test_the_spacing_of_all_and_that_of_a_file_settle_it(lits, tmp_path):
    (lits / "Geometry.CSV").write_text(  # whatever its case, and however a path is written
        "file_name,spacing_mm,axes\n"
        "./volume-29.nii,1.6 0.57 0.6,LPS\n"
        "segmentation-29.nii,1.6 0.57 0.6,LPS\n"
    )
    spacings, notes = _spacings(lits, tmp_path, given_spacing_mm=(3, 0.9, 1))
    assert spacings["volume-0"] == _stored(2.5, 0.7, 0.8)
    assert spacings["volume-28"] == _stored(3, 0.9, 1)
    assert spacings["volume-29"] == _stored(1.6, 0.57, 0.6)
    assert "spacing as given, 3 x 0.9 x 1 mm: volume-28" in notes
    assert "spacing as given, 1.6 x 0.57 x 0.6 mm: volume-29" in notes
    # What a table says is part of the source.
    (lits / "Geometry.CSV").write_text("file_name,spacing_mm\nvolume-29.nii,1.6 0.57 0.61\n")
    with pytest.raises(DataError, match=r"not on the voxels of .*volume-29"):
        liver_ct.find(lits, liver_ct.Config(**OPTIONS))
    (lits / "Geometry.CSV").write_text("file_name,spacing_mm\n")
    with pytest.raises(DataError, match="another source or changed since"):
        _spacings(lits, tmp_path, given_spacing_mm=(3, 0.9, 1))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("volume-99.nii,1 1 1", "names volume-99.nii, and there is no such file"),
        ("volume-0.nii,1 1", "geometry.csv, volume-0.nii: spacing_mm=1 1: use three numbers"),
        ("volume-0.nii,\n./volume-0.nii,", "names volume-0.nii twice: keep one line"),
        ("../source/volume-0.nii,1 1 1", "names ../source/volume-0.nii, and there is no such"),
        ("", "has a column spacing, which says nothing here"),
    ],
)
def test_refuses_tables(lits, rows, said):
    column = "spacing_mm" if rows else "spacing"
    (lits / "geometry.csv").write_text(f"file_name,{column}\n{rows}\n")
    with pytest.raises(DataError) as caught:
        liver_ct.find(lits, liver_ct.Config(**OPTIONS))
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"given_spacing_mm": (1, 1)}, {"given_axes": "LL"}, {"geometry": "both"}],
    ids=str,
)
def test_refuses_options(options):
    with pytest.raises(
        DataError, match=r"config\.data: given_spacing_mm, given_axes or geometry: "
    ):
        liver_ct.Config(**options)


def test_two_affines_that_differ_are_settled_by_a_flag(lits, tmp_path):
    for name in ("volume-0.nii", "segmentation-0.nii"):
        loaded = nib.load(lits / name)
        loaded.header.set_qform(STATED @ np.diag([1, 1, 2, 1]), 1)
        loaded.header["sform_code"] = 1
        nib.Nifti1Image(np.array(loaded.dataobj), None, loaded.header).to_filename(lits / name)
    with pytest.raises(DataError, match=r"volume-0\.nii has voxels of .* --geometry=qform"):
        liver_ct.find(lits, liver_ct.Config(**OPTIONS))
    config = f"{tmp_path / 'config'}.py"
    with open(config, "w", encoding="utf-8") as file:
        file.write(
            "from configs import liver\n\n\n"
            "def get_config(variant=''):\n"
            "    config = liver.get_config('quickstart')\n"
            f"    config.data.data_dir = {str(tmp_path / 'data')!r}\n"
            f"    for name, value in {OPTIONS!r}.items():\n"
            "        config.data[name] = value\n"
            "    return config\n"
        )
    arguments = [f"--config={config}", f"--source={lits}", "--geometry=qform"]
    out, _ = commands.run("launch.prepare", *arguments, "--spacing_mm=3,0.9,1")
    assert "placed by its qform, from which its sform differs: volume-0" in out
    assert "spacing as given, 3 x 0.9 x 1 mm: volume-28, volume-29" in out
    # Training finds it by the same fields of the config.
    spacings, _ = _spacings(lits, tmp_path, given_spacing_mm=(3.0, 0.9, 1.0), geometry="qform")
    assert spacings["volume-0"] == _stored(5, 0.7, 0.8)


def test_what_needs_the_spacing_refuses_a_volume_without(tmp_path):
    """Training volumes of pyramids, whose samples have it, and what is resampled."""
    source = tmp_path / "luna"
    source.mkdir()
    save(source / "scan.nii", np.zeros((SIDE, SIDE, 3), np.int16), np.eye(4))
    with pytest.raises(DataError, match=r"scan\.nii does not .* a sample's own spacing needs that"):
        luna16.find(source, luna16.Config(stored_size=16, depth=3))
    found = luna16.find(
        source, luna16.Config(stored_size=16, depth=3, given_spacing_mm=(2.5, 0.7, 0.7))
    )
    assert "spacing as given, 2.5 x 0.7 x 0.7 mm: scan" in found.told()

    pairs = tmp_path / "pairs"
    for seed in range(4):
        folder = write_pair(pairs / f"P{seed}", seed, ending=".mha")
    without_spacing(folder / "ct.mha")
    with pytest.raises(DataError, match=r"ct\.mha does not say .* resampling needs that"):
        prepare("mri_ct", pairs, tmp_path / "data", **OPTIONS, resample=True)


def test_a_note_names_the_file_of_a_pair(tmp_path):
    for seed in range(3):
        folder = write_pair(tmp_path / f"P{seed}", seed, ending=".mha")
        for name in ("ct", "mask", "mr")[: 2 * seed - 1]:
            without_spacing(folder / f"{name}.mha")
    config = mri_ct.Config(stored_size=16, given_spacing_mm=(2.5, 1.3, 1.1))
    found = mri_ct.find(tmp_path, config)
    notes = [note for note in found.told() if "as given" in note]
    assert notes == ["spacing as given, 2.5 x 1.3 x 1.1 mm: P0 (CT, mask), P1 (CT), P2"]


def test_volumes_of_a_pair_may_have_other_axes(tmp_path):
    """Each file of a pair in its own axes: the records are those of files in the same ones."""
    found = {}
    for name, turned in (("one", False), ("other", True)):
        for seed in range(4):
            folder = write_pair(tmp_path / name / f"P{seed}", seed)
            if turned:
                for file, axes in (("mr", "RAS"), ("mask", "PIR")):
                    path = str(folder / f"{file}.nii.gz")
                    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(path), axes), path)
        directory = prepare("mri_ct", tmp_path / name, tmp_path / f"data-{name}", **OPTIONS)
        found[name] = [record for split in SPLITS for record in read_split(directory, split)]
    for one, other in zip(found["one"], found["other"], strict=True):
        for field in one:
            np.testing.assert_array_equal(one[field], other[field])


def test_labels_of_a_ct_may_have_other_axes_but_not_be_mirrored(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(4):
        for name, values in (("volume", body() * 900 - 1000), ("segmentation", body())):
            axes = "RAS" if name == "segmentation" else "LPS"
            kind = np.int16 if name == "volume" else np.uint8
            path = str(source / f"{name}-{number}.nii")
            sitk.WriteImage(image(values.astype(kind), axes), path)
    directory = prepare("liver_ct", source, tmp_path / "data", **OPTIONS)
    for record in read_split(directory, "train"):
        inside = record["image"][..., 0] > -550
        assert (inside != record["mask"][..., 0]).mean() < 0.02  # by the rounding of the resizing
    path = source / "segmentation-0.nii"
    loaded = nib.load(path)
    nib.save(
        nib.Nifti1Image(np.array(loaded.dataobj), loaded.affine @ np.diag([-1, 1, 1, 1])), path
    )
    with pytest.raises(DataError, match=r"its origin is .* which are stored as LAS\)"):
        liver_ct.find(source, liver_ct.Config(**OPTIONS))
