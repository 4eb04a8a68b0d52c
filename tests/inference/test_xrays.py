"""Masks of X-rays from launch.predict, recomputed with Pillow, PyTorch and SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from configs import xray_lungs
from jax_pix2pix.adversarial import generate
from jax_pix2pix.metrics.components import border_note, largest_components
from jax_pix2pix.runs.workdir import load_run
from launch.predict import predict
from tests import commands, untrained

SAMPLE = commands.ROOT / "input_pipeline" / "samples" / "xray_simulated"
STORED, SIZE = 48, 32


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs "grey" and "published"; the latter has RGB, batch norm and test-time dropout."""
    folder = tmp_path_factory.mktemp("runs")
    for name, variant in (("grey", "quickstart"), ("published", "as_published")):
        config = xray_lungs.get_config(variant)
        config.data.stored_size, config.data.image_size = STORED, SIZE
        config.generator.depth = 5
        config.generator.width = config.discriminator.width = 4
        untrained.save(folder / name, config)
    return {path.name: path for path in folder.iterdir()}


def _xray(shape, seed=0):
    """Smooth noise, uint8."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 4)
    return np.clip(50 * noise / noise.std() + 128, 0, 255).astype(np.uint8)


def _save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def _mask(path):
    with Image.open(path) as image:
        assert image.mode == "L"
        mask = np.asarray(image)
    assert set(np.unique(mask)) == {0, 255}
    return mask == 255


def _resized(plane, shape):
    plane = torch.from_numpy(np.asarray(plane, np.float64))[None, None]
    how = {"mode": "bilinear", "antialias": True, "align_corners": False}
    return torch.nn.functional.interpolate(plane, shape, **how)[0, 0].numpy()


@functools.cache
def _generator(workdir):
    """-> function: (source, key of dropout) -> fake."""
    _, system, generator, _ = load_run(workdir, "best")
    return jax.jit(functools.partial(generate, system, generator))


def _seen(image):
    """The generator's input from a Pillow image that has the channels of the run."""
    stored = image.resize((STORED, STORED), Image.Resampling.BILINEAR)
    channels = np.moveaxis(np.atleast_3d(stored), -1, 0)
    seen = np.rint([_resized(one, (SIZE, SIZE)) for one in channels]) / 127.5 - 1
    return np.moveaxis(seen, 0, -1)[None]


def _probability(workdir, image):
    """The probability map of an X-ray as above, without dropout."""
    fake = _generator(workdir)(jnp.asarray(_seen(image), jnp.float32))
    return _resized((np.asarray(fake)[0, ..., 0] + 1) / 2, image.size[::-1])


def _agree(mask, probability, threshold=0.5):
    decided = np.abs(probability - threshold) > 1e-3
    assert decided.mean() > 0.95 and 0.05 < mask.mean() < 0.95
    np.testing.assert_array_equal(mask[decided], probability[decided] > threshold)


def test_the_command_on_a_folder(runs, tmp_path):
    source, output = tmp_path / "in", tmp_path / "in" / "out"
    images = {
        "a.PNG": _xray((90, 70)),
        "deeper/b.png": _xray((130, 100, 3), 1),
        "deeper/c.png": _xray((40, 50), 2),
        "mask/b.png": _xray((130, 100), 3),
        ".d.png": _xray((9, 9), 4),
    }
    for name, pixels in images.items():
        path = _save(source / f"{name}.png", pixels)
        path.rename(source / name)
    (source / "notes.txt").write_text("not an X-ray")
    _save(output / "a.png", _xray((9, 9), 5))  # from an earlier run
    arguments = [f"--workdir={runs['grey']}", f"--input={source}", f"--output={output}"]
    out, _ = commands.run("launch.predict", *arguments, "--mc_dropout=3")
    names = {"a.png": "a.PNG", "deeper/b.png": "deeper/b.png", "deeper/c.png": "deeper/c.png"}
    masks, maps = set(names), {name.replace(".png", "_uncertainty.png") for name in names}
    files = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert files == masks | maps | {"files.csv"}
    *told, last = [line for line in out.splitlines() if not line.startswith("note: ")]
    assert set(told) == {str(output / name) for name in masks | maps}
    assert last.startswith(f"files of {source}: 3 used, 4 passed over (")
    for name, of in names.items():
        assert _mask(output / name).shape == images[of].shape[:2]


def test_grey_and_colours_are_prepared_resized_thresholded_and_stretched_back(runs, tmp_path):
    source = tmp_path / "in"
    _save(source / "grey.png", _xray((90, 70)))
    _save(source / "colours.png", np.dstack([_xray((50, 64), i) for i in range(3)]))
    for name, mode in (("grey", "L"), ("published", "RGB")):
        predict(runs[name], str(source), str(tmp_path / name), mc_dropout=0)
        for path in source.iterdir():
            with Image.open(path) as image:
                expected = _probability(runs[name], image.convert(mode))
            _agree(_mask(tmp_path / name / path.name), expected)


def test_a_threshold(runs, tmp_path):
    pixels = _xray((90, 70))
    path = _save(tmp_path / "xray.png", pixels)
    predict(runs["grey"], str(path), str(tmp_path / "out"), threshold=0.6)
    expected = _probability(runs["grey"], Image.fromarray(pixels))
    _agree(_mask(tmp_path / "out" / "xray.png"), expected, threshold=0.6)


def test_jsrt_is_inverted(runs, tmp_path):
    film = (ndimage.zoom(_xray((128, 128)), 16, order=1) * 16.0).astype(">u2")  # 12 bits
    (tmp_path / "JPCLN001.IMG").write_bytes(film.tobytes())
    predict(runs["grey"], str(tmp_path), str(tmp_path / "out"))
    white = np.rint((4095 - film.astype(float)) / 4095 * 255).astype(np.uint8)
    expected = _probability(runs["grey"], Image.fromarray(white))
    _agree(_mask(tmp_path / "out" / "JPCLN001.png"), expected)


def test_largest_components(runs, tmp_path):
    path = str(_save(tmp_path / "xray.png", _xray((90, 70))))
    predict(runs["grey"], path, str(tmp_path / "all"))
    predict(runs["grey"], path, str(tmp_path / "two"), largest_components=2)
    everything = _mask(tmp_path / "all" / "xray.png")
    expected = largest_components(everything > 0, 2)
    assert 0 < expected.sum() < (everything > 0).sum()
    np.testing.assert_array_equal(_mask(tmp_path / "two" / "xray.png") > 0, expected)
    predict(runs["grey"], path, str(tmp_path / "filled"), fill_holes=True)
    filled = ndimage.binary_fill_holes(everything)
    assert filled.sum() > (everything > 0).sum()
    np.testing.assert_array_equal(_mask(tmp_path / "filled" / "xray.png") > 0, filled)


def test_a_mask_at_the_border_is_noted(runs, tmp_path, capsys):
    path = str(_save(tmp_path / "xray.png", _xray((90, 70))))
    predict(runs["grey"], path, str(tmp_path / "all"))
    mask = _mask(tmp_path / "all" / "xray.png")
    note = border_note(mask > 0)
    assert "% of the picture's border" in note
    assert f"note: {note}" in capsys.readouterr().out


def test_dropout_gives_a_mean_and_a_map_of_its_deviation(runs, tmp_path):
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        _save(tmp_path / "in" / name, _xray((90, 70), seed))
    outputs = {"0": 0, "1": 1, "8": 8, "again": 8}
    for name, passes in outputs.items():
        predict(runs["grey"], str(tmp_path / "in"), str(tmp_path / name), mc_dropout=passes)
    predict(runs["grey"], str(tmp_path / "in" / "b.png"), str(tmp_path / "alone"), mc_dropout=8)
    masks = [_mask(tmp_path / name / "b.png") for name in ("0", "1", "8")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert 0 < (masks[one] != masks[other]).mean() < 0.4
    assert not (tmp_path / "1" / "b_uncertainty.png").exists()
    with Image.open(tmp_path / "8" / "b_uncertainty.png") as image:
        assert image.mode == "I;16" and image.size == (70, 90)
        deviation = np.asarray(image) / 65535 * 0.5
    with Image.open(tmp_path / "in" / "b.png") as image:
        seen = jnp.asarray(_seen(image), jnp.float32)
    passes = [
        np.asarray(_generator(runs["grey"])(seen, key))[0, ..., 0] / 2
        for key in jax.random.split(jax.random.key(0), 8)
    ]
    expected = _resized(np.std(passes, 0), (90, 70))
    np.testing.assert_allclose(deviation, expected, atol=2e-4)
    assert expected.mean() > 0.01
    for name in ("b.png", "b_uncertainty.png"):
        files = [(tmp_path / folder / name).read_bytes() for folder in ("8", "again", "alone")]
        assert files[0] == files[1] == files[2]


def test_dropout_is_on_by_default_where_the_config_says_so(runs, tmp_path):
    path = str(_save(tmp_path / "xray.png", _xray((90, 70))))
    assert load_run(runs["published"], "best")[0].evaluation.mc_dropout == 1
    for name, passes in (("default", None), ("none", 0)):
        predict(runs["published"], path, str(tmp_path / name), mc_dropout=passes)
    default, none = (_mask(tmp_path / name / "xray.png") for name in ("default", "none"))
    assert (default != none).any()


def test_what_cannot_be_read_is_skipped_and_the_command_fails(runs, tmp_path):
    for name in ("a", "c"):
        _save(tmp_path / "in" / f"{name}.png", _xray((40, 40)))
    (tmp_path / "in" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    output = tmp_path / "out"
    arguments = [f"--workdir={runs['grey']}", f"--input={tmp_path / 'in'}", f"--output={output}"]
    out, err = commands.run(
        "launch.predict", *arguments, "--on_error=skip", code=1, variables=untrained.QUIET
    )
    assert f"1 of 3 inputs failed, see {output}/files.csv; the first" in err.splitlines()[-1]
    assert str(tmp_path / "in" / "b.png") in err.splitlines()[-1]
    told = [line for line in out.splitlines() if not line.startswith("note: ")]
    assert told[:2] == [str(output / "a.png"), str(output / "c.png")]


def test_the_embedded_sample_without_its_masks(runs, tmp_path):
    predict(runs["grey"], str(SAMPLE), str(tmp_path))
    expected = {path.relative_to(SAMPLE) for path in SAMPLE.glob("img/*.png")}
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*.png")} == expected
