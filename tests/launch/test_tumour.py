"""All commands on volumes with liver and tumour, from NIfTI files to scores on their voxels."""

import json

import nibabel as nib
import numpy as np
import pytest

from tests import commands

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def lits(tmp_path_factory):
    """Eight volumes of 40 x 36 x 10 voxels, each with a liver of 100 HU and a tumour of 0 HU."""
    folder = tmp_path_factory.mktemp("lits")
    rng = np.random.default_rng(0)
    x, y, z = np.mgrid[:40, :36, :10]
    for number in range(8):
        centre = rng.integers(15, 22, 2)
        distance = np.hypot(x - centre[0], y - centre[1]) + abs(z - 5)
        labels = (distance < 11).astype(np.uint8) + (distance < 5)
        hu = np.select([labels == 2, labels == 1], [0, 100], -150) + rng.normal(0, 10, x.shape)
        affine = np.diag([-2.0, -2.0, 3.0, 1.0])
        for name, voxels in (("volume", hu.astype(np.int16)), ("segmentation", labels)):
            nib.save(nib.Nifti1Image(voxels, affine), folder / f"{name}-{number}.nii.gz")
    return folder


def test_liver_and_tumour_from_files_to_scores(lits, tmp_path):
    fields = {
        "data.data_dir": tmp_path / "data",
        "data.image_size": 48,
        "data.batch_size": 4,
        "dtype": "float32",
        "generator.width": 8,
        "discriminator.width": 8,
        "optimizer.learning_rate": 1e-3,
        "epochs": 40,
        "constant_epochs": 20,
        "sample_every_epochs": 40,
        "checkpoint_every_epochs": 10,
    }
    config = ["--config=configs/liver.py:tumour"]
    config += [f"--config.{name}={value}" for name, value in fields.items()]
    out, _ = commands.run("launch.prepare", *config, f"--source={lits}")
    assert "test: 10 slices of 1 patients" in out
    (manifest,) = tmp_path.glob("data/liver_ct/*/*/manifest.csv")
    (held_out,) = [row for row in manifest.read_text().splitlines() if row.startswith("test,")]
    patient = held_out.split(",")[1]

    workdir = tmp_path / "run"
    commands.run("launch.train", *config, f"--workdir={workdir}")
    commands.run("launch.evaluate", f"--workdir={workdir}", "--checkpoint=last")
    results = json.loads((workdir / "evaluation" / "test.json").read_text())
    assert results["regions"] == {"liver": [1, 2], "tumour": [2]}
    assert "best_threshold" not in results  # the most probable class is taken
    model, baseline = (results["results"][name] for name in ("model", "mean training mask"))
    for region in ("liver", "tumour"):
        dice = model[region]["per_volume"]["overall"]["dice"]["mean"]
        assert dice > 0.7 and dice > baseline[region]["per_volume"]["overall"]["dice"]["mean"]

    number = patient.split("-")[1]
    for folder, name in (("volumes", "volume"), ("references", "segmentation")):
        (tmp_path / folder).mkdir()
        file = f"{name}-{number}.nii.gz"
        (tmp_path / folder / file).write_bytes((lits / file).read_bytes())
    commands.run(
        "launch.predict",
        f"--workdir={workdir}",
        "--checkpoint=last",
        f"--input={tmp_path / 'volumes'}",
        f"--output={tmp_path / 'masks'}",
    )
    commands.run(
        "launch.compare",
        f"--predictions={tmp_path / 'masks'}",
        f"--references={tmp_path / 'references'}",
        "--regions=liver:1+2,tumour:2",
        f"--output={tmp_path / 'scores.json'}",
    )
    scores = json.loads((tmp_path / "scores.json").read_text())["results"]
    for region in ("liver", "tumour"):
        native = scores[region]["overall"]["dice"]["mean"]
        stored = model[region]["per_volume"]["overall"]["dice"]["mean"]
        assert native == pytest.approx(stored, abs=0.05)
