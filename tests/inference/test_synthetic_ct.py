"""Synthetic CT from launch.predict, recomputed with SimpleITK, PyTorch and SciPy."""

import csv
import itertools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from ml_collections import ConfigDict
from scipy import ndimage
from scipy.signal import windows

import jax_pix2pix
from configs import liver, mri2ct, mri2ct_3d
from input_pipeline.prepare import options_of, prepare
from jax_pix2pix.adversarial import generate
from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.imaging.body_mask import body_mask
from jax_pix2pix.imaging.geometry import UNKNOWN
from jax_pix2pix.metrics import protocols
from jax_pix2pix.metrics.sct_scores import score_ct
from jax_pix2pix.runs.workdir import load_run
from launch.predict import predict
from tests import commands, untrained
from tests.imaging.test_dicom import write_slice
from tests.inference.test_ct_volumes import resized
from tests.input_pipeline import pairs
from tests.input_pipeline.volumes import without_spacing

SIZE = 32
DEPTH, PATCH = 16, 16
SHAPE = (20, 36, 30)  # slices, rows, columns
WINDOW = (-1024, 1000)
OBLIQUE = np.array(  # columns: axes to the left, back and head, the last one downwards
    [[0.98, 0.1, -0.17], [-0.12, 0.99, -0.11], [0.16, 0.13, -0.98]]
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs: "2d", "resampled", "sagittal", "context", "3d" and "cbct"."""
    configs = {
        "2d": mri2ct.get_config(),
        "resampled": mri2ct.get_config(),
        "sagittal": mri2ct.get_config(),
        "context": mri2ct.get_config(),
        "3d": mri2ct_3d.get_config(),
        "cbct": mri2ct.get_config(),
    }
    folder = tmp_path_factory.mktemp("runs")
    for name, config in configs.items():
        # To a dict, as image_size and stored_size refer to one value.
        config = ConfigDict(config.to_dict())
        config.data.image_size = config.data.stored_size = SIZE
        config.data.window_hu = WINDOW
        config.generator.width = config.discriminator.width = 4
        config.discriminator.strided_levels = 2
        if name == "2d":
            config.data.stored_size = 48
        if name == "resampled":
            config.data.resample = True
        if name == "sagittal":
            config.data.plane = name
        if name == "context":
            config.data.context = 1
        if name == "3d":
            config.data.depth, config.data.patch_size = DEPTH, PATCH
        if name == "cbct":
            config.data.modality = "cbct"
        untrained.save(folder / name, config)
    return folder


def _mr(seed=0, shape=SHAPE):
    """A textured ellipsoid in noise, and its mask: [slices, rows, columns]."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in shape), indexing="ij"))
    body = (grid**2).sum(0) < 1
    texture = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    values = body * (600 + 150 * texture / texture.std()) + rng.uniform(0, 20, shape)
    return np.clip(np.rint(values), 0, 2000).astype(np.int16), body.astype(np.uint8)


def _image(values, direction=None):
    """A sitk.Image with LPS axes and slices towards the head, SimpleITK's default."""
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((1.2, 1.3, 2.9))
    image.SetOrigin((-20.5, 7.25, 300.125))
    if direction is not None:
        turn, _ = np.linalg.qr(direction)
        turn *= np.sign(np.diag(turn)) * np.sign(np.diag(direction))
        image.SetDirection(turn.ravel().tolist())
    return image


def _save(path, values, direction=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(_image(values, direction), str(path))
    return path


def _read(path):
    image = sitk.ReadImage(str(path))
    assert image.GetPixelIDTypeAsString() == "16-bit signed integer"
    return sitk.GetArrayFromImage(image)


def _stored(mr, mask):
    """uint16 values as float: percentiles inside the mask map to 0 and 65535."""
    low, high = np.percentile(mr[mask > 0].astype(np.float64), (0.5, 99.5))
    return np.rint(np.clip((mr - low) / (high - low), 0, 1) * 65535)


def _seen(stored, config):
    """The network's input [slices, S, S] in [-1, 1]; each slice is padded by 0 to a square."""
    _, rows, columns = stored.shape
    side = max(rows, columns)
    top, left = (side - rows) // 2, (side - columns) // 2
    square = np.zeros((len(stored), side, side))
    square[:, top : top + rows, left : left + columns] = stored
    small = [np.rint(resized(plane, config.data.stored_size)) for plane in square]
    small = [np.rint(resized(plane, SIZE)) for plane in small]
    return np.stack(small) / 32767.5 - 1


def _native(planes, shape):
    """The network's planes -> HU on the source's pixels."""
    low, high = WINDOW
    _, rows, columns = shape
    side = max(rows, columns)
    top, left = (side - rows) // 2, (side - columns) // 2
    hu = (planes + 1) / 2 * (high - low) + low
    hu = np.stack([resized(plane, side) for plane in hu])
    return hu[:, top : top + rows, left : left + columns]


def _generator(workdir):
    config, system, generator, _ = load_run(workdir, "best")
    apply = jax.jit(lambda source: generate(system, generator, source))
    return config, lambda source: np.asarray(apply(jnp.asarray(source, jnp.float32)))


def _agree(found, expected):
    assert np.abs(found - expected).max() < 2  # HU, as values were rounded on the way
    assert np.abs(found - expected).mean() < 0.3
    assert expected.std() > 50


@pytest.mark.parametrize("run", ["2d", "context"])
def test_slices_with_their_neighbours(runs, tmp_path, run):
    mr, mask = _mr()
    mask[12] = 0
    _save(tmp_path / "mr.nii.gz", mr)
    body = _save(tmp_path / "body.nii.gz", mask)
    output = tmp_path / "out" / "sct.nii.gz"
    predict(str(runs / run), str(tmp_path / "mr.nii.gz"), str(output), mask=str(body))
    config, network = _generator(runs / run)
    seen = _seen(_stored(mr, mask), config)
    context = config.data.context
    assert context == (run == "context")
    # No slices beyond the body's ends, and none for the slice without body.
    shown = mask.any((1, 2))
    assert not shown[[0, 12, -1]].any() and shown[[2, 11, 13, -3]].all()
    around = []
    for _, stretch in itertools.groupby(range(len(mr)), key=lambda k: shown[k]):
        stretch = list(stretch)
        padded = [stretch[0]] * context + stretch + [stretch[-1]] * context
        around += [padded[k : k + 2 * context + 1] for k in range(len(stretch))]
    fake = network(np.moveaxis(seen[np.array(around)], 1, -1))[..., 0]
    _agree(_read(output), _native(fake, mr.shape))


def test_slices_of_another_plane(runs, tmp_path):
    mr, mask = _mr()
    _save(tmp_path / "mr.nii.gz", mr)
    body = _save(tmp_path / "body.nii.gz", mask)
    output = tmp_path / "sct.nii.gz"
    predict(str(runs / "sagittal"), str(tmp_path / "mr.nii.gz"), str(output), mask=str(body))
    config, network = _generator(runs / "sagittal")
    # Axes: from right to left, from the head down, from front to back.
    turned = np.moveaxis(_stored(mr, mask)[::-1], 2, 0)
    fake = network(_seen(turned, config)[..., None])[..., 0]
    _agree(_read(output), np.moveaxis(_native(fake, turned.shape), 0, 2)[::-1])


@pytest.mark.parametrize("slices", [20, 9])
def test_in_3d_patches_are_blended(runs, tmp_path, slices):
    mr, mask = _mr(shape=(slices, 36, 30))
    path = _save(tmp_path / "head.nrrd", mr)
    body = _save(tmp_path / "body.nrrd", mask)
    predict(str(runs / "3d"), str(path), str(tmp_path / "out"), mask=str(body))
    config, network = _generator(runs / "3d")
    seen = _seen(_stored(mr, mask), config)
    padded = np.pad(seen, [(0, max(0, DEPTH - slices)), (0, 0), (0, 0)], mode="edge")
    profile = windows.gaussian(PATCH, PATCH / 8)
    weight = profile[:, None, None] * profile[:, None] * profile
    total, weights = np.zeros(padded.shape), np.zeros(padded.shape)
    depths = [0, 4] if slices == 20 else [0]
    for corner in itertools.product(depths, [0, 8, 16], [0, 8, 16]):
        own = tuple(slice(start, start + PATCH) for start in corner)
        total[own] += weight * network(padded[own][None, ..., None])[0, ..., 0]
        weights[own] += weight
    fake = (total / weights)[:slices]
    _agree(_read(tmp_path / "out" / "head.nrrd"), _native(fake, mr.shape))


def test_a_cone_beam_ct_is_in_hu(runs, tmp_path):
    hu, _ = _mr()
    hu -= 1000
    path = _save(tmp_path / "cbct.mha", hu)
    predict(str(runs / "cbct"), str(path), str(tmp_path / "out"))
    config, network = _generator(runs / "cbct")
    stored = np.clip((hu.astype(float) + 1024) * 16, 0, 65535)
    fake = network(_seen(stored, config)[..., None])[..., 0]
    _agree(_read(tmp_path / "out" / "sct.mha"), _native(fake, hu.shape))


def test_the_body_is_given_or_beside_or_found(runs, tmp_path):
    mr, _ = _mr()
    mr[:, :3] += 900  # a coil outside the body makes the difference
    found = body_mask(mr)
    half = found.copy()
    half[:, : mr.shape[1] // 2] = 0
    for name in ("a/mr.mha", "b/mr.mha", "a/other.mha"):
        _save(tmp_path / name, mr)
    beside = _save(tmp_path / "a" / "mask.nii.gz", half)

    def synthesised(name, mask=None):
        predict(str(runs / "2d"), str(tmp_path / name), str(tmp_path / "sct.mha"), mask=mask)
        return _read(tmp_path / "sct.mha")

    half_path = str(_save(tmp_path / "half.mha", half))
    found_path = str(_save(tmp_path / "found.mha", found))
    given = synthesised("b/mr.mha", half_path)
    np.testing.assert_array_equal(synthesised("a/mr.mha"), given)
    np.testing.assert_array_equal(synthesised("b/mr.mha"), synthesised("a/mr.mha", found_path))
    np.testing.assert_array_equal(synthesised("a/other.mha"), synthesised("b/mr.mha"))
    assert (synthesised("b/mr.mha") != given).mean() > 0.1
    beside.unlink()
    np.testing.assert_array_equal(synthesised("a/mr.mha"), synthesised("b/mr.mha"))


def test_a_mask_that_is_made_where_training_had_files_is_told(runs, tmp_path, capsys):
    source = pairs.write_pair(tmp_path / "source" / "p1")
    data = mri2ct.get_config().data
    data.data_dir = str(tmp_path / "data")
    directory = prepare("mri_ct", source, data.data_dir, **options_of(data))
    workdir = shutil.copytree(runs / "2d", tmp_path / "run")
    shutil.copy(directory / "preparation.json", workdir)
    capsys.readouterr()

    def told(name, **files):
        predict(str(workdir), str(tmp_path / name), str(tmp_path / "sct.mha"), **files)
        (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("body mask: ")]
        return line.removeprefix("body mask: ")

    body = str(source / "mask.nii.gz")
    _save(tmp_path / "head.mha", sitk.GetArrayFromImage(sitk.ReadImage(str(source / "mr.nii.gz"))))
    otsu = f"Otsu's threshold of {tmp_path / 'head.mha'}, holes filled, largest component"
    assert told("head.mha") == f"{otsu}; in training: body masks from files: 1 of 1"
    assert told("source/p1/mr.nii.gz") == told("source/p1/mr.nii.gz", mask=body) == body
    (workdir / "preparation.json").unlink()
    assert told("head.mha") == otsu


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd"])
def test_an_oblique_anisotropic_scan_of_reversed_slices_keeps_its_geometry(
    runs, tmp_path, ending, dtype
):
    mr, _ = _mr(shape=(5, 24, 20))
    mr = (mr // 8 if dtype == "uint8" else mr).astype(dtype)
    straight = _save(tmp_path / "straight.mha", mr)
    path = _save(tmp_path / f"mr{ending}", mr[::-1], OBLIQUE)
    if ending.startswith(".nii"):  # NIfTI has two affines and their codes too
        image = nib.load(path)
        image.header["qform_code"], image.header["sform_code"] = 1, 2
        image.header["srow_x"] *= np.float32(1.0001)
        nib.save(nib.Nifti1Image(image.dataobj[...].copy(), None, image.header), path)
    predict(str(runs / "2d"), str(path), str(tmp_path / "out"))
    source, result = (sitk.ReadImage(str(p)) for p in (path, tmp_path / "out" / f"sct{ending}"))
    for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(result, what)() == getattr(source, what)()
    if ending.startswith(".nii"):
        one, other = (nib.load(p).header for p in (path, tmp_path / "out" / f"sct{ending}"))
        for field in ("quatern_b", "qoffset_x", "srow_x", "srow_y", "srow_z"):
            assert one[field].tobytes() == other[field].tobytes()
        assert one["pixdim"][:4].tobytes() == other["pixdim"][:4].tobytes()  # of these axes only
        assert (other["qform_code"], other["sform_code"]) == (1, 2)
        assert other["dim"].tolist() == one["dim"].tolist()
    # The network sees the same pictures in whichever direction the file's slices run.
    predict(str(runs / "2d"), str(straight), str(tmp_path / "out"))
    np.testing.assert_array_equal(
        _read(tmp_path / "out" / f"sct{ending}")[::-1], _read(tmp_path / "out" / "straight.mha")
    )


def test_the_command_on_folders_of_patients(runs, tmp_path):
    source, output = tmp_path / "Task1", tmp_path / "out"
    for patient, ending in (("1BA001", ".nii.gz"), ("1BA002", ".mha")):
        mr, mask = _mr(len(patient), (4, 20, 20))
        _save(source / "brain" / patient / f"mr{ending}", mr)
        _save(source / "brain" / patient / f"ct{ending}", mr)
        _save(source / "brain" / patient / f"mask{ending}", mask)
    _save(source / "more" / "head.nrrd", mr)
    (source / "overview.txt").write_text("not a volume")
    arguments = [f"--workdir={runs / '2d'}", f"--input={source}", f"--output={output}"]
    out, _ = commands.run("launch.predict", *arguments, variables=untrained.QUIET)
    results = [
        output / "brain" / "1BA001" / "sct.nii.gz",
        output / "brain" / "1BA002" / "sct.mha",
        output / "more" / "head.nrrd",
    ]
    *out, _ = out.splitlines()
    assert out[::2] == [str(path) for path in results]
    bodies = [str(source / f"brain/1BA00{n}/mask{e}") for n, e in ((1, ".nii.gz"), (2, ".mha"))]
    found = f"Otsu's threshold of {source / 'more' / 'head.nrrd'}, holes filled, largest component"
    assert out[1::2] == [f"body mask: {where}" for where in (*bodies, found)]
    files = sorted(path for path in output.rglob("*") if path.is_file())
    assert files == sorted((*results, output / "files.csv"))


def test_a_reference_is_scored_under_every_protocol(runs, tmp_path, capsys):
    mr, mask = _mr()
    path, body = _save(tmp_path / "mr.nii.gz", mr), _save(tmp_path / "body.mha", mask)
    ct = np.clip(mr.astype(int) * 2 - 1024, -1024, 3000).astype(np.int16)
    reference = _save(tmp_path / "ct.nii.gz", ct)
    output = str(tmp_path / "out" / "sct.nii.gz")
    files = {"reference": str(reference), "mask": str(body)}
    predict(str(runs / "2d"), str(path), output, **files)
    lines = capsys.readouterr().out.splitlines()
    expected = protocols.compare(ct, _read(output), mask > 0)
    assert lines[:2] == [output, f"body mask: {body}"]
    assert expected["synthrad2023"]["mae"] > 100
    for line, (name, scores) in zip(lines[3:], expected.items(), strict=False):
        found = line.split()
        assert found[0] == name
        keys = ("mae", "psnr", "ssim", "ms_ssim")
        np.testing.assert_allclose(
            [float(cell.replace("-", "nan")) if cell == "-" else float(cell) for cell in found[1:]],
            [scores.get(key, np.nan) for key in keys],
            atol=1e-4,
        )
    for name in expected:
        assert any(line.startswith(f"{name}, version 1: ") for line in lines)


def test_padding_of_a_reference_counts_in_no_score(runs, tmp_path):
    """Beyond the field of view a CT may have any value; one in [0, 1] is refused."""
    mr, mask = _mr()
    path, body = _save(tmp_path / "mr.nii.gz", mr), _save(tmp_path / "body.mha", 255 * mask)
    run = jax_pix2pix.load(runs / "2d")
    sct = run.predict(path, mask=body)
    ct = np.clip(mr.astype(int) * 2 - 1024, -1024, 3000).astype(np.int16)
    scores = run.score(sct, _save(tmp_path / "ct.nii.gz", ct))
    padded = np.where(np.indices(SHAPE)[2] < 4, -3024, ct).astype(np.int16)
    air = np.maximum(padded, -1024)
    expected = protocols.compare(air, sct.values, mask > 0)
    for values in (padded, air):
        found = run.score(sct, _save(tmp_path / "padded.nii.gz", values))
        assert found == pytest.approx(found | {
            f"{name}.{key}": value for name, of in expected.items() for key, value in of.items()
        }, nan_ok=True)  # fmt: skip
    assert found["synthrad2023.mae"] == pytest.approx(scores["synthrad2023.mae"], rel=0.05)
    with pytest.raises(
        DataError, match=r"one\.nii\.gz holds values of 0 to 1.* scaled to \[0, 1\]"
    ):
        run.score(sct, _save(tmp_path / "one.nii.gz", (ct + 1024) / np.float32(4095)))
    soft = np.resize(np.arange(0, 256, 3, dtype=np.uint8), SHAPE)
    with pytest.raises(DataError, match=r"soft\.mha holds the values 0, 3, .* two classes"):
        run.predict(path, mask=_save(tmp_path / "soft.mha", soft))


def test_where_the_spacing_is_unknown_distances_and_dose_are_left_out(runs, tmp_path, capsys):
    mr, mask = _mr()
    ct = np.clip(mr.astype(int) * 2 - 1024, -1024, 3000).astype(np.int16)
    paths = {name: tmp_path / f"{name}.mha" for name in ("mr", "ct", "mask")}
    results = {}
    given_note = "spacing as given, 2.9 x 1.3 x 1.2 mm"
    expected_notes = {"stated": (), "unknown": (UNKNOWN,), "given": (given_note,)}
    for name in ("stated", "unknown", "given"):
        for file, values in (("mr", mr), ("ct", ct), ("mask", mask)):
            _save(paths[file], values)
            if name != "stated":
                without_spacing(paths[file])
        options = {"spacing_mm": "2.9,1.3,1.2"} if name == "given" else {}
        output = tmp_path / name / "sct.mha"
        predict(
            str(runs / "2d"), str(paths["mr"]), str(output), reference=str(paths["ct"]), **options
        )
        told = capsys.readouterr().err
        assert (f"warning: {paths['mr']}: {UNKNOWN}" in told) is (name == "unknown")
        notes = jax_pix2pix.load(runs / "2d").predict(paths["mr"], **options).notes
        assert notes == expected_notes[name]
        capsys.readouterr()  # it told them too
        results[name] = json.loads(output.with_suffix(".json").read_text())
    (stated,), (unknown,), (given,) = (
        results[name]["results"]["model"]["cases"] for name in results
    )
    assert given == stated | {"patient": given["patient"]}
    open_scores = {name for name in stated if re.search("hd95|gamma|delta|range", name)}
    assert len(open_scores) > 20
    assert unknown.pop("does_not_tell") == ""  # those of a dose are not there
    assert "gamma" in stated["does_not_tell"]
    for name, value in unknown.items():
        assert value is None if name in open_scores else value == stated[name]
    assert results["unknown"]["spacing_mm"] == UNKNOWN
    assert UNKNOWN in results["unknown"]["protocols"]["grid"]
    assert results["given"]["spacing_mm"] == [2.9, 1.3, 1.2]
    with pytest.raises(DataError, match=r"ct\.mha does not say .* resampling needs that"):
        predict(str(runs / "resampled"), str(paths["mr"]), str(output), reference=str(paths["ct"]))
    resampled = jax_pix2pix.load(runs / "resampled")
    found = resampled.predict(paths["mr"], grid=paths["ct"], **options)
    assert found.notes == (given_note, f"the grid: {given_note}") and found.told == (given_note,)


def test_mask_and_reference_may_have_other_axes(runs, tmp_path):
    """The same voxels, and a reference that is one of two DICOM series."""
    mr, mask = _mr()
    affine = np.diag([-0.8, -0.7, 2.5, 1])  # columns to the left, rows to the back
    image, body = (nib.Nifti1Image(x.transpose(), affine) for x in (mr, mask))
    turned = body.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    nib.save(image, tmp_path / "mr.nii.gz")
    nib.save(turned, tmp_path / "mask.nii.gz")
    nib.save(body, tmp_path / "straight.nii.gz")
    ct = np.clip(mr.astype(int) * 2 - 1024, -1024, 3000).astype(np.int16)
    (tmp_path / "dicom").mkdir()
    for number, values in enumerate((ct, ct // 2)):
        for index, plane in enumerate(values):
            path = tmp_path / "dicom" / f"{number}{index}.dcm"
            write_slice(path, plane, (0, 0, 2.5 * index), series=f"1.2.{number}")
    reference = nib.Nifti1Image(ct.transpose(), affine).as_reoriented(
        np.array([[1, 1], [2, -1], [0, -1]])
    )
    nib.save(reference, tmp_path / "ct.nii.gz")
    found = []
    for mask_name, reference_name, options in (
        ("straight", "ct.nii.gz", {}),
        ("mask", "dicom", {"series": "1.2.0"}),
    ):
        output = tmp_path / mask_name / "sct.nii.gz"
        predict(
            str(runs / "2d"),
            str(tmp_path / "mr.nii.gz"),
            str(output),
            mask=str(tmp_path / f"{mask_name}.nii.gz"),
            reference=str(tmp_path / reference_name),
            **options,
        )
        cases = json.loads((output.parent / "sct.json").read_text())["results"]["model"]["cases"]
        found.append((_read(output), cases))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def _grid_of_a_ct():
    """A sitk.Image of noise, with a smaller field of view and other voxels than the MR."""
    noise = np.random.default_rng(1).integers(-1000, 1000, (14, 22, 26)).astype(np.int16)
    ct = sitk.GetImageFromArray(noise)
    ct.SetSpacing((1.53, 1.71, 3.37))
    ct.SetOrigin((-18.13, 10.395, 304.9))  # no centre is half-way between two MR centres
    return ct


def test_a_run_of_resampled_data_resamples_to_the_reference(runs, tmp_path, capsys):
    mr, mask = _mr()
    path, body = _save(tmp_path / "mr.nii.gz", mr), _save(tmp_path / "body.mha", mask)
    grid = _grid_of_a_ct()
    reference = tmp_path / "ct.nrrd"
    sitk.WriteImage(grid, str(reference))
    files = {"mask": str(body), "reference": str(reference)}
    predict(str(runs / "resampled"), str(path), str(tmp_path / "sct.nrrd"), **files)
    told = capsys.readouterr()
    assert f"resampled, as for training, to the voxels of {reference}" in told.out
    assert "config.data.resample" not in told.err

    image, body = sitk.Cast(_image(mr), sitk.sitkFloat32), _image(mask)
    beyond = float(mr.min())
    seen = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, beyond)
    inside = sitk.Resample(body, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    seen, inside = map(sitk.GetArrayFromImage, (seen, inside))
    config, network = _generator(runs / "resampled")
    fake = network(_seen(_stored(seen, inside), config)[..., None])[..., 0]
    result, written = (sitk.ReadImage(str(p)) for p in (tmp_path / "sct.nrrd", reference))
    for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(result, what)() == getattr(written, what)()
    _agree(sitk.GetArrayFromImage(result), _native(fake, seen.shape))


def test_a_run_of_resampled_data_warns_where_there_is_no_reference(runs, tmp_path, capsys):
    mr, mask = _mr()
    path, body = _save(tmp_path / "mr.nii.gz", mr), _save(tmp_path / "body.mha", mask)
    predict(str(runs / "resampled"), str(path), str(tmp_path / "sct.mha"), mask=str(body))
    lines = capsys.readouterr().err.splitlines()
    (warning,) = [line for line in lines if line.startswith("warning: ")]
    assert "config.data.resample" in warning and "as reference" in warning
    config, network = _generator(runs / "resampled")
    fake = network(_seen(_stored(mr, mask), config)[..., None])[..., 0]
    _agree(_read(tmp_path / "sct.mha"), _native(fake, mr.shape))
    predict(str(runs / "2d"), str(path), str(tmp_path / "sct.mha"), mask=str(body))
    assert "config.data.resample" not in capsys.readouterr().err


def test_a_reference_gives_the_evaluation_of_a_patient(runs, tmp_path, capsys):
    mr, mask = _mr()
    path, body = _save(tmp_path / "mr.nii.gz", mr), _save(tmp_path / "body.mha", mask)
    ct = np.clip(mr.astype(int) * 2 - 1024, -1024, 3000).astype(np.int16)
    reference = _save(tmp_path / "ct.nii.gz", ct)
    files = {"reference": str(reference), "mask": str(body)}
    predict(str(runs / "2d"), str(path), str(tmp_path / "out" / "sct.nii.gz"), **files)
    out = capsys.readouterr().out
    written = {ending: tmp_path / "out" / f"sct.{ending}" for ending in ("json", "csv", "html")}
    assert all(str(path) in out for path in written.values())

    results = json.loads(written["json"].read_text())
    assert results["checkpoint"] == "best" and results["step"] == untrained.STEP
    assert (results["input"], results["reference"]) == (str(path), str(reference))
    assert results["mask"] == str(body)
    (case,) = results["results"]["model"]["cases"]
    # Spacing of slices, rows and columns; SimpleITK has the reverse order.
    expected = score_ct(ct, _read(tmp_path / "out" / "sct.nii.gz"), mask > 0, (2.9, 1.3, 1.2))
    assert np.isfinite(expected["delta_d98"]) and np.isfinite(expected["soft_tissue.hd95_mm"])
    for name, value in expected.items():
        found = np.nan if case[name] is None else case[name]
        assert found == pytest.approx(value, rel=1e-3, abs=1e-3, nan_ok=True), name
    assert case["images"] == len(mr) and not results["baselines"]

    assert "does_not_tell" in case and "doses, beside controls" in out
    row, *controls = csv.DictReader(written["csv"].read_text().splitlines())
    assert [row["model"] for row in controls][:1] == ["control: water"]
    assert row["model"] == "model" and float(row["gamma_2_2"]) == case["gamma_2_2"]
    page = written["html"].read_text()
    assert page.count("<img") == 2 and "range.mean_mm" in page and str(reference) in page
    assert "Baselines" not in page


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("mr.mha", {"output": "mr.mha"}, "mr.mha would be replaced by the result"),
        ("mr.mha", {"output": "ct.mha", "reference": "ct.mha"}, "ct.mha would be replaced"),
        ("mr.mha", {"mask": "small.mha"}, "small.mha is not on the voxels of"),
        ("mr.mha", {"reference": "small.mha"}, "small.mha is not on the voxels of"),
        ("mr.mha", {"reference": "absent.mha"}, "absent.mha cannot be read"),
        ("mr.mha", {"mask": "empty.mha"}, "mr.mha: there is nothing in the body mask"),
        ("mr.mha", {"largest_components": 1}, "is of runs that make masks"),
        ("mr.mha", {"output": "."}, "is where the input is"),
        ("notes.txt", {}, "notes.txt is no volume and holds none of MR: this run takes .nii, "),
        ("cts", {}, "cts is no volume and holds none of MR"),
        (".", {"output": "sct.mha"}, "is one file and"),
        (".", {"mask": "empty.mha"}, "mask and reference are of one volume"),
        ("absent.mha", {}, "absent.mha does not exist"),
    ],
)
def test_refusals(runs, tmp_path, given, options, message):
    mr, mask = _mr(shape=(4, 20, 20))
    for name, values in (("mr", mr), ("ct", mr), ("small", mask[:3]), ("empty", 0 * mask)):
        _save(tmp_path / f"{name}.mha", values)
    _save(tmp_path / "cts" / "ct.mha", mr)
    (tmp_path / "notes.txt").write_text("not a volume")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    arguments = {"output": "out"} | options
    files = {key: str(tmp_path / x) if isinstance(x, str) else x for key, x in arguments.items()}
    with pytest.raises((ConfigError, DataError)) as caught:
        predict(str(runs / "2d"), str(tmp_path / given), **files)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_other_systems_have_no_mask_and_no_reference(tmp_path):
    config = liver.get_config()
    config.data.image_size = 32
    config.generator.width = config.discriminator.width = 2
    workdir = untrained.save(tmp_path / "liver", config)
    path = _save(tmp_path / "ct.nii", _mr(shape=(4, 20, 20))[0])
    for option in ("mask", "reference"):
        with pytest.raises(ConfigError, match="is of runs that make synthetic CT"):
            predict(str(workdir), str(path), str(tmp_path / "out"), **{option: str(path)})
