"""launch.ablation: the losses of its rows, and a table of two tiny runs."""

import csv
import json
import os

import pytest

from configs import ct_pyramid_2d, ct_pyramid_3d, xray_lungs
from jax_pix2pix.errors import ConfigError, WorkdirError
from jax_pix2pix.safety.safe_files import UnsafeFileError
from launch import ablation
from tests import commands, untrained

ALL = {"adversarial": 1, "reconstruction": 100, "projection": 100, "segmentation": 10}
WITHOUT = {  # {dimensions: ...}
    3: {
        "A": ("reconstruction", "projection", "segmentation"),
        "B": ("projection", "segmentation"),
        "C": ("segmentation",),
        "D": (),
    },
    2: {
        "A": ("projection", "segmentation"),
        "B": ("segmentation",),
        "C": (),
        "D": ("projection",),
    },
}


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("row", "ABCD")
def test_a_row_has_its_terms_and_no_others(dimensions, row):
    config = (ct_pyramid_2d if dimensions == 2 else ct_pyramid_3d).get_config()
    of_row = ablation.row_config(config, row)
    expected = ALL | dict.fromkeys(WITHOUT[dimensions][row], 0)
    assert {term: of_row.loss[f"{term}_weight"] for term in ALL} == expected
    assert config.loss.segmentation_weight == 10  # the config itself is unchanged
    of_row.loss = config.loss
    assert of_row.to_dict() == config.to_dict()


@pytest.mark.parametrize(
    "config, row, message",
    [
        (xray_lungs.get_config(), "A", 'not of system "xray_lungs"'),
        (ct_pyramid_3d.get_config(), "E", 'no row "E", use some of A, B, C, D'),
    ],
)
def test_what_is_no_row_is_refused(config, row, message):
    with pytest.raises(ConfigError, match=message):
        ablation.row_config(config, row)


def test_a_row_needs_the_weights_of_its_terms():
    config = ct_pyramid_3d.get_config()
    config.loss.projection_weight = 0.0
    assert ablation.row_config(config, "B").loss.projection_weight == 0
    with pytest.raises(ConfigError, match="projection_weight is 0, and row C"):
        ablation.row_config(config, "C")


def test_steps_and_seconds_are_of_all_scales(tmp_path):
    # Per scale: (step, images per second) of each line, batches of two.
    logged = [[(10, 4.0), (15, 2.0)], [(10, 1.0), (20, 5.0)]]
    for scale, lines in enumerate(logged):
        (tmp_path / f"scale_{scale}" / "checkpoints" / "15").mkdir(parents=True)
        text = [
            json.dumps({"step": step, "split": "train", "images_per_second": speed, "time": 0})
            for step, speed in lines
        ]
        text.append(json.dumps({"step": lines[-1][0], "split": "validation", "psnr": 9.0}))
        (tmp_path / f"scale_{scale}" / "metrics.jsonl").write_text("\n".join(text) + "\n")
    config = ct_pyramid_2d.get_config()
    config.data.batch_size = 2
    means = {name: {"mean": value} for name, value in (("mse", 0.1), ("psnr", 10.0), ("ssim", 0.5))}
    results = {"results": {"memorisation": {"overall": means}}, "diversity": {"diversity": None}}
    row = ablation.table_row("D", config, str(tmp_path), results)
    assert row["steps"] == 15 + 20
    assert row["seconds"] == pytest.approx(20 / 4 + 10 / 2 + 20 / 1 + 20 / 5)
    assert row["terms"] == "adversarial + reconstruction + segmentation"
    expected = (0.1, 10, 0.5, None, 0.00006, 41.97, 0.9956)
    columns = list(ablation.COLUMNS)
    assert tuple(row[column] for column in columns[2:9]) == expected


def _command(workdir, *arguments):
    fields = {
        "data.data_dir": workdir.parent / "data",
        "data.image_size": 24,
        "data.depth": 8,
        "data.repeat": 2,
        "pyramid.min_size": 24,  # one scale
        "pyramid.max_size": 24,
        "pyramid.depth_divisor": 3,
        "generator.width": 4,
        "discriminator.width": 4,
        "epochs": 1,
        "log_every_steps": 1,
    }
    out, _ = commands.run(
        "launch.ablation",
        "--config=configs/ct_pyramid_3d.py:quickstart",
        f"--workdir={workdir}",
        "--count=2",
        *[f"--config.{name}={value}" for name, value in fields.items()],
        *arguments,
        variables=untrained.QUIET,
    )
    return out


@pytest.mark.slow
@pytest.mark.long
def test_the_table_of_two_rows(tmp_path):
    workdir = tmp_path / "ablation"
    _command(workdir, "--terms=A")
    checkpoints = sorted((workdir / "A").glob("scale_*/checkpoints/*/_CHECKPOINT_METADATA"))
    before = [path.stat().st_mtime_ns for path in checkpoints]
    assert checkpoints
    out = _command(workdir, "--terms=A,B")
    assert [path.stat().st_mtime_ns for path in checkpoints] == before
    assert out.count("already evaluated") == 1

    rows = list(csv.DictReader((workdir / "table.csv").open()))
    assert [(row["row"], row["terms"]) for row in rows] == [
        ("A", "adversarial"),
        ("B", "adversarial + reconstruction"),
    ]
    assert [row["published_psnr"] for row in rows] == ["22.6", "26.0"]
    for row in rows:
        assert row["steps"] == "2"
        assert 0 < float(row["seconds"]) < 60
        results = json.loads((workdir / row["row"] / "evaluation" / "train.json").read_text())
        of_row = results["results"]["memorisation"]["overall"]
        assert float(row["mse"]) == of_row["mse"]["mean"]
        assert float(row["diversity"]) == results["diversity"]["diversity"] > 0
    lines = (workdir / "table.md").read_text().splitlines()
    assert "python -m launch.ablation --config=configs/ct_pyramid_3d.py:quick" in lines[2]
    assert any(line.startswith("Reduced: published are 141 pixels") for line in lines)
    assert f"| {float(rows[0]['psnr']):.2f} |" in lines[-2] and len(lines[-1].split("|")) == 13


@pytest.mark.parametrize("content", ["[1]", "{", "[" * 10**5, None])
def test_a_damaged_evaluation_is_named(tmp_path, content):
    (tmp_path / "scale_0" / "checkpoints" / "1").mkdir(parents=True)
    line = json.dumps({"step": 1, "split": "train"}) + "\n"
    (tmp_path / "scale_0" / "metrics.jsonl").write_text(line, encoding="utf-8")
    path = tmp_path / "evaluation" / "train.json"
    path.parent.mkdir()
    if content is None:
        os.mkfifo(path)
    else:
        path.write_text(content, encoding="utf-8")
    expected = "is no regular file" if content is None else "is no valid JSON: delete it"
    with pytest.raises((WorkdirError, UnsafeFileError), match=f"{path} {expected}"):
        ablation._evaluated(str(tmp_path), None, 2, 0, 0)
