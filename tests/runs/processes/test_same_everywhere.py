"""What must be equal on all processes of a run, and how a difference is told."""

import shutil
from pathlib import Path

import pytest

import jax_pix2pix
from configs.lidc_mask2ct import get_config
from jax_pix2pix import environment
from jax_pix2pix.runs.processes import same_everywhere
from tests import commands
from tests.faults import runs


def _line(*values):
    return same_everywhere.differences(
        [{"host": f"host{number}", "values": value} for number, value in enumerate(values)]
    )


def test_equal_processes():
    assert _line({"seed": 0}, {"seed": 0}) == ""


def test_the_line_has_field_values_and_processes():
    line = _line(*[{"seed": 0, "jax": "0.9"}] * 4, {"seed": 1}, {"seed": None})
    assert line == (
        "the processes of this run differ: seed is 0 on processes 0 (host0), 1 (host1), 2 (host2) "
        "and 1 more, 1 on process 4 (host4), null on process 5 (host5); "
        'jax is "0.9" on processes 0 (host0), 1 (host1), 2 (host2) and 1 more, '
        "absent on processes 4 (host4), 5 (host5): start all with the same command, data, versions "
        "and devices"
    )


def test_a_line_stays_short():
    line = _line(*[{f"field{f}": "x" * 999 + str(n) for f in range(9)} for n in range(99)])
    assert "and in 6 more" in line and "96 more values on others" in line and len(line) < 2000


def _changed(**fields):
    config = get_config()
    config.update_from_flattened_dict(fields)
    return same_everywhere._of_config(config)


@pytest.mark.parametrize(
    "field", ["seed", "dtype", "data.batch_size", "loss.l1_weight", "heartbeat_seconds", "fsdp"]
)
def test_every_field_counts(field):
    other = {"dtype": "bfloat16"}.get(field, 7)
    plain, changed = _changed(), _changed(**{field: other})
    differing = {name for name in plain if plain[name] != changed[name]}
    assert differing - {"config.data.seed"} == {f"config.{field}"}  # which follows the seed


def test_of_paths_only_the_content_counts(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)

    def described(name):
        path = str(tmp_path / name)
        return _changed(**{"data.data_dir": path, "loss.perceptual_weights_file": path})

    assert described("a") == described("b") != described("c")
    assert described("missing")["the file of config.loss.perceptual_weights_file"] == (
        "No such file or directory"
    )


def test_another_file_of_the_library_is_other_code(tmp_path):
    package = Path(jax_pix2pix.__file__).parent
    shutil.copytree(package, tmp_path / "jax_pix2pix", ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copytree(package.parent / "input_pipeline", tmp_path / "input_pipeline")
    copy = tmp_path / "jax_pix2pix"
    assert environment.code_digest(copy) == environment.code_digest(package)
    with (tmp_path / "input_pipeline" / "order.py").open("a") as file:
        file.write("\n")
    assert environment.code_digest(copy) != environment.code_digest(package)


def test_flags_that_change_no_number_do_not_count():
    plain = {"XLA_FLAGS": "--xla_a=1 --xla_b", "HOME": "x"}
    same = {
        "XLA_FLAGS": "--xla_dump_to=/tmp/0 --xla_b --xla_force_host_platform_device_count=4 "
        "--xla_gpu_cache_dir=/tmp/0 --xla_a=0 --xla_a=1"
    }
    expected = {"XLA_FLAGS --xla_a": "1", "XLA_FLAGS --xla_b": ""}
    assert environment.flags(plain) == environment.flags(same) == expected


def test_versions_code_and_settings_count():
    described = same_everywhere._of_process()
    assert {
        "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "python", "device",
        "matmul_precision", "the code of jax_pix2pix", "the devices of a process", "JAX_ENABLE_X64",
    } <= described.keys()  # fmt: skip
    assert described["the devices of a process"] == "8 cpu"


@pytest.mark.slow
def test_fields_processes_and_copies_are_checked_once(sample_data_dir, tmp_path):
    """Every fifth step is saved, and the epoch of ten at its end."""
    fields = {"checkpoint_every_steps": 5, "epochs": 1}
    arguments = commands.tiny_training(tmp_path / "run", sample_data_dir, **fields)
    for out, _ in runs.train(arguments, 2, module="tests.faults.counted_checks"):
        assert "checked: {'fields': 1, 'processes': 1} [0, 5, 10]\n" in out
