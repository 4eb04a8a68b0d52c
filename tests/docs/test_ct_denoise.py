"""The sixth system of docs/examples, from a package of its own and from inside the tree."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from tests import commands

EXAMPLE = commands.ROOT / "docs/examples/ct_denoise"
FIELDS = {
    "data.image_size": 32,
    "data.batch_size": 4,
    "data.test_fraction": 0.4,
    "data.validation_fraction": 0.4,
    "generator.width": 4,
    "discriminator.width": 4,
    "discriminator.strided_levels": 2,
    "epochs": 1,
    "constant_epochs": 1,
}
pytestmark = pytest.mark.slow  # five processes, which import JAX and TensorFlow


def _cts(folder):
    """Patients with a CT each: a body in noise."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in (36, 36, 6)), indexing="ij"))
    body = (grid**2).sum(0) < 1
    for number in range(4):
        hu = np.where(body, 40 + 60 * rng.normal(size=body.shape), -1000).astype(np.int16)
        (folder / f"p{number}").mkdir(parents=True)
        image = nib.Nifti1Image(hu, np.diag([-1.0, -1.0, 2.0, 1.0]))
        nib.save(image, folder / f"p{number}" / "ct.nii.gz")
    return folder


def _packaged(folder):
    """The example beside what pip writes of it. -> (folder to start in, variables, config)."""
    shutil.copytree(EXAMPLE / "ct_denoise", folder / "ct_denoise")
    info = folder / "ct_denoise-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ct-denoise\nVersion: 0.1.0\n")
    lines = (EXAMPLE / "pyproject.toml").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("ct_denoise = ")]
    entry = "[jax_pix2pix.systems]\n" + line.replace('"', "") + "\n"
    (info / "entry_points.txt").write_text(entry)
    paths = f"{folder}:{commands.ROOT}"
    return folder, {"PYTHONPATH": paths}, "ct_denoise/config.py"


def _in_the_tree(folder):
    """A copy of the project with one config, one system and one line more."""
    for name in ("configs", "input_pipeline", "jax_pix2pix", "launch"):
        ignored = shutil.ignore_patterns("__pycache__", "samples")
        shutil.copytree(commands.ROOT / name, folder / name, ignore=ignored)
    (folder / "input_pipeline" / "samples").mkdir()
    shutil.copy(EXAMPLE / "ct_denoise/config.py", folder / "configs/ct_denoise.py")
    systems = folder / "jax_pix2pix/systems"
    shutil.copy(EXAMPLE / "ct_denoise/system.py", systems / "ct_denoise.py")
    text = (systems / "__init__.py").read_text()
    text = text.replace("import ct_pyramid,", "import ct_denoise, ct_pyramid,")
    text = text.replace("SYSTEMS = {", 'SYSTEMS = {\n    "ct_denoise": ct_denoise.build,')
    (systems / "__init__.py").write_text(text)
    return folder, {"PYTHONPATH": str(folder)}, "ct_denoise"


@pytest.mark.parametrize("place", [_packaged, pytest.param(_in_the_tree, marks=pytest.mark.long)])
def test_prepare_train_evaluate_predict_and_a_notebook(tmp_path, place):
    (tmp_path / "own").mkdir()
    folder, variables, config = place(tmp_path / "own")
    source, workdir = _cts(tmp_path / "source"), tmp_path / "run"
    fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    flags = [f"--config={config}", f"--config.data.data_dir={tmp_path / 'data'}", *fields]

    def run(*words):
        process = commands.python(*words, variables=variables, folder=folder)
        return commands.finish(process)[0]

    run("-m", "launch.prepare", *flags, f"--source={source}")
    run("-m", "launch.train", *flags, f"--workdir={workdir}")
    out = run("-m", "launch.evaluate", f"--workdir={workdir}", "--checkpoint=last")
    assert "identity" in out
    results = json.loads((workdir / "evaluation" / "test.json").read_text())
    noise = [case["synthrad2023.mae"] for case in results["results"]["identity"]["cases"]]
    # The mean of |x| of normal noise of 40 HU, with what the window cuts away.
    assert np.mean(noise) == pytest.approx(40 * np.sqrt(2 / np.pi), rel=0.1)

    ct, output = source / "p0" / "ct.nii.gz", tmp_path / "out"
    run("-m", "launch.predict", f"--workdir={workdir}", f"--input={ct}", f"--output={output}")
    notebook = (
        "import jax_pix2pix, sys; run = jax_pix2pix.load(sys.argv[1]); "
        "run.predict(sys.argv[2]).save(sys.argv[3])"
    )
    run("-c", notebook, str(workdir), str(ct), str(tmp_path / "again.nii.gz"))
    one, other = (nib.load(p) for p in (output / "sct.nii.gz", tmp_path / "again.nii.gz"))
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
    np.testing.assert_array_equal(one.affine, nib.load(ct).affine)
