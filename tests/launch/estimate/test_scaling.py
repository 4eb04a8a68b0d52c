"""launch.scaling and launch.check_scaling: tables from a program whose times are closed forms."""

import json

import pytest

from jax_pix2pix.errors import BenchmarkError, ConfigError
from launch import scaling
from tests import commands

GFLOP, GB = 10**9, 10**9


def _program(path, images, **changes):
    """A step with 1 GFLOP per image, 1 GB plus 0.1 GB per image, and 100 MB reduced."""
    program = {
        "system": "lidc_mask2ct",
        "dtype": "bfloat16",
        "chip": "TPU v5e",
        "chips": 4,
        "topology": "v5e:2x2",
        "mesh": {"data": 4, "fsdp": 1},
        "batch_size_per_chip": images,
        "versions": {"jax": "0"},
        "memory": {"total": 2**30 + images * 2**28, "arguments": 2**30, "available": 16 * 2**30},
        "cost": {
            "flops": images * GFLOP,
            "hbm_bytes": GB + images * GB / 10,
            "operand_bytes": 2 * GB + images * GB / 10,
        },
        "collectives": [
            {"kind": "all-reduce", "bytes": 10**8, "arrays": 9, "times": 1, "chips": 4}
        ],
        "config": {
            "task": "ct_slices",
            "data": {
                "image_size": 100, "patch_size": 0, "depth": 0, "context": 0,
                "source_channels": 1, "source_type": "uint8", "target_type": "uint8",
            }
        },
        **changes,
    }  # fmt: skip
    path.write_text(json.dumps(program))
    return str(path)


def _tables(out):
    """{title: {first cell: [other cells]}}"""
    tables, title = {}, None
    for line in out.splitlines():
        if line.startswith("| "):
            first, *others = (cell.strip() for cell in line.strip("|").split("|"))
            tables.setdefault(title, {})[first] = others
        elif line:
            title = line
    return tables


def test_tables_are_the_closed_forms(tmp_path):
    files = [_program(tmp_path / f"{n}.json", n) for n in (20, 10)]
    out, err = commands.run(
        "launch.scaling",
        f"--programs={','.join(files)}",
        "--global_batch=512",
        "--input_rate=1000",
        "--scans=1000",
        "--examples_per_scan=16",
    )
    assert not err
    tables = _tables(out)
    # 20 images move 3 GB at 819 GB/s, and twice 3/4 of 100 MB over two links of 50 GB/s.
    step, communication = 1e3 * 3 / 819, 1e3 * 1.5 * 1e8 / 1e11
    row = tables["Weak scaling, 20 images a chip"]["v5e:2x2"]
    assert row[:2] == ["4", "80"]
    assert row[3:6] == [
        f"{step:.2f}",
        f"{communication:.2f}",
        f"{step:.2f} to {step + communication:.2f}",
    ]
    assert row[7] == f"{100 * step / (step + communication):.1f} to 100.0"
    assert row[9] == f"{20 / step:.2f}"  # images per ms, at 1 image per CPU ms
    # 256 chips use all links of a torus.
    whole = tables["Weak scaling, 20 images a chip"]["v5e:16x16"]
    assert whole[4] == f"{1e3 * 2 * 255 / 256 * 1e8 / 2e11:.2f}"
    # A GPU moves all operands, 4 GB at 3350 GB/s.
    assert tables["Weak scaling, 20 images a chip"]["8 H100"][3] == f"{1e3 * 4 / 3350:.2f}"
    # 512 images are 2 per chip on 256 chips, which move 1.2 GB, and 128 on 4, which move 13.8 GB.
    strong = tables["Strong scaling, global batch 512"]
    assert strong["v5e:2x2"][0] == "128" and strong["v5e:16x16"][0] == "2"
    low, high = (float(x) for x in strong["v5e:16x16"][4].split(" to "))
    communication_256 = 2 * 255 / 256 * 1e8 / 2e11
    assert high == pytest.approx(100 * 4 * 13.8 / (256 * 1.2), abs=0.06)
    expected = 4 * (13.8 / 819 + 1.5e-3) / (256 * (1.2 / 819 + communication_256))
    assert low == pytest.approx(100 * expected, abs=0.06)
    memory = out.split("Memory of a chip")[1].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in memory[4:8]]
    # 15 GiB hold 60 images of 0.25 GiB. Saving 3/4 of the state of 1 GiB makes room for 3 more.
    assert [row[1:] for row in cells[:2]] == [
        ["1", "1.000", "256.00", "60", "0.0"],
        ["4", "0.250", "256.00", "63", "5.0"],
    ]
    assert "16,000 examples, 0.00 TB" in out
    data = tables["16,000 examples, 0.00 TB as they are stored"]
    assert data["v5e:2x2"][0] == "200"
    assert float(data["v5e:2x2"][2]) == pytest.approx(80 / step * 1e3 * 20_000 / 1e9, abs=0.01)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mesh": {"data": 2, "fsdp": 2}}, "compile one slice, with --config.fsdp=1"),
        ({"collectives": None}, "is not a file of launch.compile"),
    ],
)
def test_other_programs_are_refused(tmp_path, change, said):
    with pytest.raises(BenchmarkError, match=said):
        scaling.read(_program(tmp_path / "a.json", 8, **change))


def test_two_programs_of_one_batch_are_refused(tmp_path):
    programs = [scaling.read(_program(tmp_path / f"{n}.json", 8)) for n in "ab"]
    with pytest.raises(ConfigError, match="have the same batch"):
        list(scaling.pairs(programs))


@pytest.mark.slow
def test_the_assumption_holds_on_cpu_devices():
    fields = {
        "data.image_size": 16,
        "generator.depth": 2,
        "generator.width": 2,
        "discriminator.width": 2,
        "discriminator.strided_levels": 1,
    }
    arguments = [f"--config.{name}={value}" for name, value in fields.items()]
    out, _ = commands.run("launch.check_scaling", "--config=configs/lidc_mask2ct.py", *arguments)
    head, _, *rows = out.splitlines()
    g, d = (int(word.replace(",", "").rstrip(",")) for word in head.split() if word[0].isdigit())
    counts = [[int(cell.replace(",", "")) for cell in row.split()[:4]] for row in rows]
    assert [row[0] for row in counts] == [1, 2, 4, 8]
    assert counts[0][1:] == [0, 0, 0]
    idle = 4 * (4 + 2 + 4)  # biases before instance norms, in encode_1, decode_1 and level_1
    assert {row[3] for row in counts[1:]} == {g + d - idle + 4 * 5}
    assert len({tuple(row[1:]) for row in counts[1:]}) == 1
    assert out.count("yes") == 4
