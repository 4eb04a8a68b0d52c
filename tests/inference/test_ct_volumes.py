"""Masks of CT volumes from launch.predict, recomputed with nibabel, PyTorch and SciPy."""

import itertools

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

import jax_pix2pix
from configs import liver, liver_3d, xray_lungs
from jax_pix2pix.adversarial import generate
from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.imaging.geometry import UNKNOWN
from jax_pix2pix.metrics.components import largest_components
from jax_pix2pix.runs.workdir import load_run
from launch.predict import predict
from tests import commands, untrained
from tests.imaging.test_dicom import SPACING_MM, write_slice
from tests.input_pipeline.volumes import save

SIZE = 32
DEPTH = 16
LPS = np.array([[-1.5, 0, 0, 40], [0, -0.8, 0, 7], [0, 0, 3, -90], [0, 0, 0, 1]])


def _small(config):
    config.data.image_size = SIZE
    config.data.patch_size = 0
    config.generator.width = config.discriminator.width = 4
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs: "liver", "tumour" with three classes, "3d", "2.5d", and "unet" with dropout."""
    unet = xray_lungs.get_config("quickstart")
    unet.data.dataset, unet.data.source_type, unet.data.source_range = "liver_ct", "int16", (0, 100)
    unet.task = "ct_masks"
    unet.data.stored_size, unet.generator.depth = 48, 5
    tumour = liver.get_config("tumour")
    tumour.dtype = "float32"
    neighbours = liver.get_config("quickstart")
    neighbours.data.context = 1
    configs = {
        "liver": liver.get_config("quickstart"),
        "tumour": tumour,
        "3d": liver_3d.get_config("quickstart"),
        "2.5d": neighbours,
        "unet": unet,
    }
    folder = tmp_path_factory.mktemp("runs")
    return {name: untrained.save(folder / name, _small(config)) for name, config in configs.items()}


@pytest.fixture(scope="module")
def loaded(runs):
    return {name: load_run(workdir, "best")[:3] for name, workdir in runs.items()}


def _hu(shape, seed=0):
    """Smooth int16 noise, in the order of the file's axes."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return np.rint(150 * noise / noise.std() + 50).astype(np.int16)


def _save(path, hu, affine=LPS):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(hu, affine), path)
    return path


def _mask(path):
    image = nib.load(path)
    assert image.get_data_dtype() == np.uint8
    return np.asarray(image.dataobj)


def _turned(path, order, signs):
    """The same volume, saved with its axes in another order and direction."""
    image = nib.load(path)
    ornt = np.array(list(zip(order, signs, strict=True)))
    twin = image.as_reoriented(ornt)
    target = path.with_name(f"turned-{''.join(map(str, order))}{signs}.nii.gz")
    nib.save(twin, target)
    return target


def resized(plane, side):
    plane = torch.from_numpy(np.asarray(plane, np.float64))[None, None]
    how = {"mode": "bilinear", "antialias": True, "align_corners": False}
    return torch.nn.functional.interpolate(plane, (side, side), **how)[0, 0].numpy()


def _probabilities(run, source):
    _, system, generator = run
    apply = jax.jit(lambda generator, source: generate(system, generator, source))
    fake = apply(generator, jnp.asarray(source, jnp.float32))
    return np.asarray(system.task.probabilities(fake))


def _expected(run, slices, shape):
    """Probabilities [slices, h, w, classes] of a volume [slices, h, w], slice by slice, in 2D."""
    config = run[0]
    low, high = config.data.source_range
    side = max(shape)
    top, left = ((side - length) // 2 for length in shape)
    pictures = []
    for hu in slices:
        square = np.full((side, side), -1024.0)
        square[top : top + shape[0], left : left + shape[1]] = hu
        stored = np.rint(resized(square, config.data.stored_size))
        seen = np.rint(resized(stored, SIZE))
        pictures.append(2 * (np.clip(seen, low, high) - low) / (high - low) - 1)
    results, context = [], config.data.context
    for i in range(len(slices)):
        last = len(slices) - 1
        around = [pictures[min(max(i + k, 0), last)] for k in range(-context, context + 1)]
        small = _probabilities(run, np.stack(around, -1)[None])[0]
        back = [resized(one, side) for one in np.moveaxis(small, -1, 0)]
        results.append(np.stack(back, -1)[top : top + shape[0], left : left + shape[1]])
    return np.stack(results)


def _agree(labels, expected, decided):
    """Labels are equal wherever rounding does not decide, which is nearly everywhere."""
    assert decided.mean() > 0.8 and 0.05 < (expected > 0).mean() < 0.95
    np.testing.assert_array_equal(labels[decided], expected[decided])


def test_the_command_on_a_folder(runs, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    path = _save(source / "batch" / "volume-1.nii", _hu((40, 33, 20)))
    twin = _turned(path, (2, 0, 1), (-1, 1, -1)).replace(source / "volume-2.nii.gz")
    for name in ("segmentation-1.nii", "labelsTr/liver_1.nii.gz", ".volume-4.nii"):
        _save(source / name, _hu((4, 4, 4)))
    (source / "notes.txt").write_text("not a volume")
    arguments = [f"--workdir={runs['liver']}", f"--input={source}", f"--output={output}"]
    out, _ = commands.run("launch.predict", *arguments)
    results = output / "batch" / "prediction-1.nii.gz", output / "prediction-2.nii.gz"
    files = sorted(file for file in output.rglob("*") if file.is_file())
    assert files == sorted((*results, output / "files.csv"))
    *told, last = [line for line in out.splitlines() if not line.startswith("note: ")]
    assert told == [str(path) for path in results]
    assert "2 used, 4 passed over (2 labels: batch/segmentation-1.nii" in last.replace(
        "labelsTr/liver_1.nii.gz and 1 more", "batch/segmentation-1.nii"
    )
    for volume, result in zip((path, twin), results, strict=True):
        mask = _mask(result)
        assert mask.shape == nib.load(volume).shape and set(np.unique(mask)) == {0, 1}
        np.testing.assert_array_equal(nib.load(result).affine, nib.load(volume).affine)
    pictures = [sitk.DICOMOrient(sitk.ReadImage(str(result)), "LPS") for result in results]
    np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, pictures))
    assert pictures[0].GetOrigin() == pytest.approx(pictures[1].GetOrigin())


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_the_mask_does_not_depend_on_the_order_of_axes(runs, tmp_path, order):
    run = jax_pix2pix.load(runs["liver"])
    path = _save(tmp_path / "one.nii", _hu((21, 26, 5)))
    run.predict(path).save(tmp_path / "out" / "one.nii.gz")
    expected = sitk.ReadImage(str(tmp_path / "out" / "one.nii.gz"))
    for signs in ((1, 1, 1), (1, -1, -1)):
        twin = _turned(path, order, signs)
        run.predict(twin).save(tmp_path / "out" / twin.name)
        found = sitk.ReadImage(str(tmp_path / "out" / twin.name))
        assert found.GetDirection() == sitk.ReadImage(str(twin)).GetDirection()
        there = sitk.Resample(found, expected, sitk.Transform(), sitk.sitkNearestNeighbor)
        np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (there, expected)))


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_the_mask_does_not_depend_on_the_format(runs, tmp_path, ending):
    path = _save(tmp_path / "one.nii", _hu((21, 26, 5)))
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(image, str(tmp_path / f"other{ending}"))
    for name in ("one.nii", f"other{ending}"):
        predict(runs["liver"], str(tmp_path / name), str(tmp_path / "out"))
    one, other = (
        sitk.ReadImage(str(tmp_path / "out" / f"{name}.nii.gz")) for name in ("one", "other")
    )
    assert other.GetOrigin() == image.GetOrigin() and other.GetDirection() == image.GetDirection()
    np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (one, other)))


@pytest.mark.parametrize(("run", "threshold"), [("liver", 0.5), ("liver", 0.4), ("unet", 0.5)])
def test_each_slice_is_resized_thresholded_and_cropped(runs, loaded, tmp_path, run, threshold):
    hu = _hu((40, 33, 20))  # more than a batch of slices
    path = _save(tmp_path / "ct.nii.gz", hu)
    given = threshold if threshold != 0.5 else None
    predict(runs[run], str(path), str(tmp_path / "out"), threshold=given)
    mask = _mask(tmp_path / "out" / "ct.nii.gz").transpose()
    for slices in (slice(0, 2), slice(17, 20)):
        probability = _expected(loaded[run], hu.transpose()[slices], (33, 40))[..., 0]
        decided = np.abs(probability - threshold) > 5e-3  # one HU from rounding
        _agree(mask[slices], (probability > threshold).astype(np.uint8), decided)


def test_each_slice_is_seen_between_its_neighbours(runs, loaded, tmp_path):
    hu = _hu((40, 33, 18))  # more than a batch of slices
    path = _save(tmp_path / "ct.nii.gz", hu)
    predict(runs["2.5d"], str(path), str(tmp_path / "out"))
    mask = _mask(tmp_path / "out" / "ct.nii.gz").transpose()
    probability = _expected(loaded["2.5d"], hu.transpose(), (33, 40))[..., 0]
    _agree(mask, (probability > 0.5).astype(np.uint8), np.abs(probability - 0.5) > 5e-3)


def test_of_several_classes_the_most_probable_one(runs, loaded, tmp_path):
    hu = _hu((50, 50, 3))
    predict(runs["tumour"], str(_save(tmp_path / "ct.nii", hu)), str(tmp_path / "out"))
    mask = _mask(tmp_path / "out" / "ct.nii.gz").transpose()
    probabilities = _expected(loaded["tumour"], hu.transpose(), (50, 50))
    ranked = np.sort(probabilities, -1)
    assert set(np.unique(mask)) == {0, 1, 2}
    _agree(mask, probabilities.argmax(-1), ranked[..., -1] - ranked[..., -2] > 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slices", "starts"),
    [(DEPTH, [0]), (5, [0]), (24, [0, 8]), (DEPTH + 3, [0, 3]), (35, [0, 8, 16, 19])],
    ids=str,
)
def test_in_3d_runs_overlap_by_half_and_are_averaged(runs, loaded, tmp_path, slices, starts):
    config = loaded["3d"][0]
    hu = _hu((SIZE, SIZE, slices), seed=1)  # no resizing in the plane
    path = _save(tmp_path / "volume-3.nii", hu)
    mask = jax_pix2pix.load(runs["3d"]).predict(path).values
    low, high = config.data.source_range
    seen = 2 * (np.clip(hu.transpose(), low, high).astype(np.float32) - low) / (high - low) - 1
    votes = [[] for _ in range(slices)]
    for start in starts:
        run = [min(start + i, slices - 1) for i in range(DEPTH)]
        found = _probabilities(loaded["3d"], seen[run][None, ..., None])
        for i, plane in enumerate(found[0, : slices - start, ..., 0]):
            votes[start + i].append(plane)
    probability = np.stack([np.mean(planes, 0) for planes in votes])
    expected = (probability > 0.5).astype(np.uint8)
    _agree(mask, expected, np.abs(probability - 0.5) > 1e-5)


def test_the_largest_components_of_the_whole_volume(runs, tmp_path):
    path = str(_save(tmp_path / "ct.nii", _hu((40, 33, 20))))
    predict(runs["liver"], path, str(tmp_path / "all"))
    predict(runs["liver"], path, str(tmp_path / "two"), largest_components=2)
    everything = _mask(tmp_path / "all" / "ct.nii.gz")
    expected = largest_components(everything > 0, 2)
    assert 0 < expected.sum() < everything.sum()
    np.testing.assert_array_equal(_mask(tmp_path / "two" / "ct.nii.gz"), expected)
    predict(runs["liver"], path, str(tmp_path / "filled"), fill_holes=True)
    filled = ndimage.binary_fill_holes(everything)
    assert filled.sum() > everything.sum()
    np.testing.assert_array_equal(_mask(tmp_path / "filled" / "ct.nii.gz"), filled)


def test_components_are_of_all_classes_together(runs, tmp_path):
    path = str(_save(tmp_path / "ct.nii", _hu((50, 50, 4))))
    predict(runs["tumour"], path, str(tmp_path / "all"))
    predict(runs["tumour"], path, str(tmp_path / "one"), largest_components=1)
    everything, one = (_mask(tmp_path / name / "ct.nii.gz") for name in ("all", "one"))
    np.testing.assert_array_equal(one, everything * largest_components(everything > 0, 1))


def test_dropout_gives_a_mean_and_a_map_of_its_deviation(runs, tmp_path):
    path = str(_save(tmp_path / "volume-1.nii", _hu((40, 33, 18))))
    for passes in (0, 1, 6):
        predict(runs["unet"], path, str(tmp_path / str(passes)), mc_dropout=passes)
    masks = [_mask(tmp_path / str(passes) / "prediction-1.nii.gz") for passes in (0, 1, 6)]
    for one, other in itertools.combinations(masks, 2):
        assert 0 < (one != other).mean() < 0.3
    for passes in (0, 1):
        assert not (tmp_path / str(passes) / "prediction-1_uncertainty.nii.gz").exists()
    deviation = nib.load(tmp_path / "6" / "prediction-1_uncertainty.nii.gz")
    assert deviation.get_data_dtype() == np.float32 and deviation.shape == (40, 33, 18)
    np.testing.assert_array_equal(deviation.affine, nib.load(path).affine)
    values = deviation.get_fdata()
    assert 0 <= values.min() and 0.001 < values.mean() < values.max() <= 0.5
    predict(runs["unet"], path, str(tmp_path / "again"), mc_dropout=6)
    for name in ("prediction-1.nii.gz", "prediction-1_uncertainty.nii.gz"):
        one, other = (nib.load(tmp_path / folder / name).get_fdata() for folder in ("6", "again"))
        np.testing.assert_array_equal(one, other)


def test_a_dicom_series(loaded, runs, tmp_path):
    hu = _hu((24, 20, 6)).transpose()
    folder = tmp_path / "series"
    folder.mkdir()
    for index, plane in enumerate(hu):
        write_slice(folder / f"{index}.dcm", plane, (0, 0, SPACING_MM[0] * index))
    (folder / "README.txt").write_text("not a slice")
    predict(runs["liver"], str(folder), str(tmp_path / "out"))
    found = sitk.ReadImage(str(tmp_path / "out" / "series.nii.gz"))
    assert found.GetSize() == hu.shape[::-1]
    assert found.GetSpacing()[::-1] == pytest.approx(SPACING_MM)
    affine = np.diag([-SPACING_MM[2], -SPACING_MM[1], SPACING_MM[0], 1])  # columns run to the left
    _save(tmp_path / "ct.nii", hu.transpose(), affine)
    predict(runs["liver"], str(tmp_path / "ct.nii"), str(tmp_path / "out"))
    same = sitk.ReadImage(str(tmp_path / "out" / "ct.nii.gz"))
    np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (found, same)))


def test_a_ct_of_unknown_spacing_is_marked_and_has_no_distances(runs, tmp_path, capsys):
    path = _save(tmp_path / "ct.nii", _hu((256, 256, 2)), np.eye(4))
    predict(runs["liver"], str(path), str(tmp_path / "out"))
    said = capsys.readouterr()
    assert f"warning: {path}: {UNKNOWN}; --spacing_mm=SLICES,ROWS,COLUMNS" in said.err
    assert (said.out + said.err).count(UNKNOWN) == 1
    result = tmp_path / "out" / "ct.nii.gz"
    assert nib.load(result).header["descrip"] == b"spacing unknown"
    run = jax_pix2pix.load(runs["liver"])
    mask = run.predict(path)
    assert mask.spacing_mm is None and UNKNOWN in mask.notes
    assert mask.to_nibabel().header["descrip"] == b"spacing unknown"
    scores = run.score(mask, result)
    assert scores["liver.dice"] == 1 and not any(name.endswith("_mm") for name in scores)

    told = run.predict(path, spacing_mm=(2.5, 0.7, 0.8))
    np.testing.assert_array_equal(told.values, mask.values)
    assert "spacing as given, 2.5 x 0.7 x 0.8 mm" in told.notes
    assert told.to_nibabel().header.get_zooms() == pytest.approx((0.8, 0.7, 2.5))
    assert run.score(told, result, spacing_mm="2.5,0.7,0.8")["liver.hd95_mm"] == 0
    stated = _save(tmp_path / "stated.nii", _hu((20, 22, 3)))
    capsys.readouterr()
    predict(runs["liver"], str(stated), str(tmp_path / "out"), spacing_mm="2.5,0.7,0.8")
    said = f"{stated} states its spacing, 3 x 0.8 x 1.5 mm, so that spacing_mm does not count"
    assert nib.load(tmp_path / "out" / "stated.nii.gz").header.get_zooms()[2] == 3
    assert said in capsys.readouterr().out
    # Of an array, and of an image in memory, too.
    assert run.predict(np.asarray(nib.load(path).dataobj), affine=np.eye(4)).spacing_mm is None
    assert run.predict(nib.load(path)).spacing_mm is None


def test_the_affine_of_an_image_in_memory_that_differs_is_chosen(runs):
    image = nib.Nifti1Image(_hu((20, 22, 3)), LPS)
    image.set_qform(LPS @ np.diag([1, 1, 2, 1]), 1)
    run = jax_pix2pix.load(runs["liver"])
    with pytest.raises(DataError, match=r"the image has voxels of 1\.5 x 0\.8 x 3 mm"):
        run.predict(image)
    for name, deep in (("sform", 3), ("qform", 6)):
        assert run.predict(image, geometry=name).spacing_mm[0] == pytest.approx(deep)


def test_axes_are_given_to_a_file_without_directions(runs, tmp_path):
    hu = _hu((20, 22, 3))
    path = save(tmp_path / "ct.nii", hu, sform_code=0, qform_code=0)
    with pytest.raises(DataError, match="such as --axes=LPS"):
        predict(runs["liver"], str(path), str(tmp_path / "out"))
    predict(runs["liver"], str(path), str(tmp_path / "out"), axes="LPS")
    result = nib.load(tmp_path / "out" / "ct.nii.gz")
    np.testing.assert_allclose(result.affine, np.diag([-0.7, -1.1, 2.5, 1]), rtol=1e-6)
    stated = jax_pix2pix.load(runs["liver"]).predict(hu, affine=np.diag([-0.7, -1.1, 2.5, 1]))
    np.testing.assert_array_equal(result.dataobj, stated.geometry.to_file(stated.values))
    with pytest.raises(ConfigError, match="axes=LP: use three of R or L"):
        predict(runs["liver"], str(path), str(tmp_path / "out"), axes="LP")


def test_one_of_several_dicom_series(runs, tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    for number, hu in enumerate((_hu((24, 20, 6)), _hu((24, 20, 6), seed=1))):
        for index, plane in enumerate(hu.transpose()):
            place = (0, 0, SPACING_MM[0] * index)
            write_slice(folder / f"{number}{index}.dcm", plane, place, series=f"1.2.{number}")
        _save(tmp_path / f"{number}.nii", hu, np.diag([-SPACING_MM[2], -SPACING_MM[1], 2.5, 1]))
    with pytest.raises(
        DataError, match=r"1\.2\.0 \(CT, 6 slices\), 1\.2\.1 \(CT, 6 slices\): choose"
    ):
        predict(runs["liver"], str(folder), str(tmp_path / "out"))
    predict(runs["liver"], str(folder), str(tmp_path / "out"), series="1.2.1")
    predict(runs["liver"], str(tmp_path / "1.nii"), str(tmp_path / "out"))
    one, other = (_mask(tmp_path / "out" / f"{name}.nii.gz") for name in ("series", "1"))
    np.testing.assert_array_equal(one, other)
    with pytest.raises(ConfigError, match=r"series=1\.2\.1: there is no folder of DICOM slices"):
        predict(runs["liver"], str(tmp_path / "1.nii"), str(tmp_path / "out"), series="1.2.1")


def test_a_flag_of_the_command_chooses_the_affine(runs, tmp_path):
    image = nib.Nifti1Image(_hu((20, 22, 3)), LPS)
    image.set_qform(LPS @ np.diag([1, 1, 2, 1]), 1)
    nib.save(image, tmp_path / "ct.nii")
    source, output = str(tmp_path / "ct.nii"), str(tmp_path / "out")
    with pytest.raises(DataError, match=r"right by --geometry=sform or --geometry=qform"):
        predict(runs["liver"], source, output)
    arguments = [f"--workdir={runs['liver']}", f"--input={source}", f"--output={output}"]
    commands.run("launch.predict", *arguments, "--geometry=qform", variables=untrained.QUIET)
    assert nib.load(tmp_path / "out" / "ct.nii.gz").header.get_zooms()[2] == pytest.approx(6)
