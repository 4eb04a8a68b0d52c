"""launch.compile: every system for an absent slice, the search for a batch, refusals."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from jax_pix2pix import sharding
from jax_pix2pix.errors import BenchmarkError, ConfigError
from jax_pix2pix.runs.workdir import abstract_state, build_system
from launch.estimate import ahead_of_time, chips
from launch.estimate.compiled_program import DoesNotFit, traffic
from launch.estimate.largest_batch import bisect, largest
from launch.estimate.program_table import table
from tests import commands, golden
from tests.tiny import parameters_with_a_gradient

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the extra tpu is not installed"
)
SMALL = {"data.image_size": 16, "generator.depth": 2, "discriminator.strided_levels": 1}
SLICE = chips.topology("v5e:2x2")


def _config(name, overrides):
    config = golden.config_of(golden.CASES[name])
    config.update_from_flattened_dict({"dtype": "bfloat16", "data.batch_size": 4} | overrides)
    return config


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("lidc_mask2ct", SMALL | {"fsdp": 2}),
        pytest.param("xray_lungs", SMALL, marks=pytest.mark.long),
        pytest.param("liver", {"data.image_size": 16}, marks=pytest.mark.long),
        pytest.param("mri2ct", SMALL, marks=pytest.mark.long),
        ("lung_segmenter", {"data.image_size": 8, "data.depth": 4, "generator.depth": 1}),
        pytest.param("ct_pyramid_3d", {"pyramid.scale": 0}, marks=pytest.mark.long),
    ],
)
def test_every_system(name, overrides):
    config = _config(name, overrides)
    program = ahead_of_time.compile_step(config, SLICE)
    assert (program["chips"], program["batch_size_per_chip"]) == (4, 1)
    memory = program["memory"]
    assert 0 < memory["arguments"] < memory["total"] < memory["available"]
    assert program["cost"]["flops"] > program["cost"]["flops_of_convolutions"] > 0
    sizes = {(c["kind"], c["chips"]) for c in program["collectives"]}
    assert ("all-reduce", 4) in sizes
    gathers = {size for kind, size in sizes if kind == "all-gather"}
    assert (2 in gathers) == (config.fsdp == 2)
    assert 0 < program["cost"]["hbm_bytes"] < program["cost"]["bytes_accessed"]
    assert program["roofline"]["communication"] > 0
    assert "fits" in table(program)


@needs_libtpu
@pytest.mark.parametrize("name", ["v5e:4x4", "v6e:8x8", "v5p:2x2x2", "2xv5e:4x4"])
def test_each_host_feeds_neighbouring_rows(name):
    topology = chips.topology(name)
    for fsdp in (1, 2, 4, 8):
        mesh = sharding.make_mesh(fsdp, 64, of=ahead_of_time.devices(topology))
        assert mesh.shape == {"data": topology.chips // fsdp, "fsdp": fsdp}
        hosts = [device.process_index for device in mesh.devices.flat]
        assert hosts == sorted(hosts) and len(set(hosts)) == topology.chips // hosts.count(0)


@pytest.mark.slow
@needs_libtpu
def test_several_slices():
    """Parameters are split within slices only; between slices there are sums of gradients alone."""
    topology = chips.topology("2xv5e:2x2")
    config = _config("lidc_mask2ct", SMALL | {"fsdp": 2, "data.batch_size": 8})
    mesh = sharding.make_mesh(2, 8, of=ahead_of_time.devices(topology))
    assert [[d.slice_index for d in row] for row in mesh.devices] == [[0] * 2] * 2 + [[1] * 2] * 2
    with pytest.raises(ConfigError, match="fsdp=8 does not divide the 4 devices of a slice"):
        sharding.make_mesh(8, 8, of=ahead_of_time.devices(topology))
    program = ahead_of_time.compile_step(config, topology)
    assert (program["chips"], program["batch_size_per_chip"]) == (8, 1)
    sizes = {(c["kind"], c["chips"]) for c in program["collectives"]}
    between = {size for kind, size in sizes if kind.startswith("slices-")}
    assert between == {2} and ("all-gather", 2) in sizes
    assert max(size for _, size in sizes) == 4
    assert "8 TPU v5e (2xv5e:2x2), mesh data 4 x fsdp 2" in table(program)


@pytest.mark.slow
@needs_libtpu
def test_what_is_larger_than_a_chips_own_memory_crosses_to_hbm_and_back():
    """The array, too large for VMEM's 128 MiB, is read and written once each: twice its bytes."""
    x = jax.ShapeDtypeStruct(
        (2**14, 2**14), jnp.float32, sharding=SingleDeviceSharding(ahead_of_time.devices(SLICE)[0])
    )
    compiled = jax.jit(lambda x: 2 * x + 1).lower(x).compile()
    found = traffic(compiled.as_text())
    assert found == {"operand_bytes": 2 * 4 * 2**28, "hbm_bytes": 2 * 4 * 2**28}


@pytest.mark.slow
@needs_libtpu
def test_the_step_reduces_gradients_and_five_scalars(tmp_path):
    """The command finds on TPU v5p what `test_compiled_program` finds on the CPU."""
    overrides = {**SMALL, "generator.width": 4, "discriminator.width": 4, "data.batch_size": 4}
    path = tmp_path / "program.json"
    out, err = commands.run(
        "launch.compile",
        "--config=configs/lidc_mask2ct.py",
        "--topology=v5p:2x2x1",
        f"--output={path}",
        *(f"--config.{name}={value}" for name, value in overrides.items()),
    )
    assert not err
    program = json.loads(path.read_text())
    assert program["config"]["generator"]["width"] == 4
    abstract = abstract_state(*_built(_config("lidc_mask2ct", overrides)))
    expected = 4 * (sum(parameters_with_a_gradient(abstract)) + 5)
    assert sum(c["bytes"] for c in program["collectives"]) == expected
    assert f"{expected / 1e6:.6f}" in out and "4 TPU v5p (v5p:2x2x1)" in out
    assert "global batch 4, 1 a chip" in out


def _built(config):
    config.dtype = "float32"
    return build_system(config), config


@pytest.mark.slow
@needs_libtpu
def test_what_does_not_fit_is_said_in_a_line():
    fields = {**SMALL, "data.image_size": 1024, "data.batch_size": 2**16}
    _, err = commands.run(
        "launch.compile",
        "--config=configs/lidc_mask2ct.py",
        "--topology=v5e:2x2",
        *(f"--config.{name}={value}" for name, value in fields.items()),
        code=1,
    )
    line = commands.error_line(err)
    assert "config.data.batch_size=65536, 16384 a chip, does not fit: it needs" in line
    assert "GiB of a TPU v5e's 15.75" in line and "too much" in line


@pytest.mark.parametrize("known", [True, False], ids=["memory known", "memory unknown"])
@pytest.mark.parametrize("first", [1, 7, 64, 5000])
@pytest.mark.parametrize("largest_size", [1, 2, 6, 64, 1000])
def test_the_search_ends_between_what_fits_and_what_does_not(first, largest_size, known):
    tried = {}

    def program_of(images):
        assert images not in tried and images > 0
        # Not linear, as XLA squeezes programs that are too large.
        used = 100 + 10 * images + (5 * images) ** 0.9
        fits = images <= largest_size
        tried[images] = fits
        return (f"program of {images}" if fits else None), used if fits or known else None

    available = 100 + 10 * (largest_size + 0.5) + (5 * (largest_size + 0.5)) ** 0.9
    assert bisect(program_of, first, available) == (largest_size, f"program of {largest_size}")
    assert tried[largest_size] and not tried[largest_size + 1]
    assert len(tried) < 26


def test_a_config_of_which_not_one_image_fits_is_refused(monkeypatch, capsys):
    def compile_step(config, topology):
        raise DoesNotFit(config.data.batch_size * 20 * chips.GIB, topology.chip.hbm)

    monkeypatch.setattr(ahead_of_time, "compile_step", compile_step)
    with pytest.raises(BenchmarkError, match=r"one image a chip does not fit: it needs 80\.00 GiB"):
        largest(_config("lidc_mask2ct", {"data.batch_size": 8}), SLICE)
    assert capsys.readouterr().out.startswith("2 a chip: does not fit, it needs 160.00 GiB")


@pytest.mark.parametrize(
    ("field", "value"), [("dtype", "float16"), ("data.cache", "device"), ("fsdp", 3)]
)
def test_configs_that_no_slice_takes_are_refused(monkeypatch, field, value):
    monkeypatch.setattr(ahead_of_time, "devices", lambda topology: jax.devices()[:4])
    with pytest.raises(ConfigError, match=f"config.{field}={value}"):
        ahead_of_time.compile_step(_config("lidc_mask2ct", {field: value}), SLICE)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--topology=v5e:3x3", "--topology=v5e:3x3: TPU v5e has the shapes 1x1, 2x2"),
        pytest.param(
            "--config.data.batch_size=6",
            "config.data.batch_size=6 does not divide over 4 devices: use a multiple of 4",
            marks=needs_libtpu,
        ),
    ],
)
def test_refusals_are_a_line(flag, said):
    arguments = ["--config=configs/lidc_mask2ct.py", "--topology=v5e:2x2", flag]
    _, err = commands.run("launch.compile", *arguments, code=1)
    assert said in commands.error_line(err)


def test_without_libtpu_it_says_what_to_install():
    code = (
        "import runpy, sys; sys.modules['libtpu'] = None; sys.argv[0] = 'launch.compile'; "
        "runpy.run_module('launch.compile', run_name='__main__')"
    )
    flags = ["--config=configs/lidc_mask2ct.py", "--topology=v5e:2x2"]
    _, err = commands.finish(commands.python("-c", code, *flags), code=1)
    assert "needs libtpu: pip install -c constraints.txt" in commands.error_line(err)
