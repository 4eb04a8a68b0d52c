"""config.data.cache changes no batch and no run."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from input_pipeline import memory, pipeline
from jax_pix2pix import device_cache, fit, sharding
from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.runs.workdir import abstract_state, build_system
from tests import commands
from tests.tiny import quickstart_data, tiny_config

AUGMENTED = {"flip": True, "load_size": 143}
STEPS = 20  # 142 training images: the second epoch begins at step 17


@pytest.fixture
def data(sample_data_dir):
    data = quickstart_data(sample_data_dir)
    data.batch_size = 8
    return data


def batches(data, cache, start=0, hosts=1):
    """The global batches from all hosts; with cache "device", gathered as in the step."""
    data.cache = cache
    per_host = [
        list(pipeline.train_batches(data, start, STEPS, host, hosts)) for host in range(hosts)
    ]
    whole = [
        {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        for parts in zip(*per_host, strict=True)
    ]
    if cache == "device":
        mesh = sharding.make_mesh(2, data.batch_size)
        dataset = device_cache.put(pipeline.train_set(data), mesh)
        size = (data.image_size, data.image_size)

        @jax.jit
        def gather(dataset, batch):
            gathered = device_cache.gather(dataset, batch, size)
            return device_cache.as_channels(gathered, data.context) if data.context else gathered

        whole = [
            gather(dataset, sharding.to_global(batch, mesh))
            | {"index": batch["index"][:, data.context] if data.context else batch["index"]}
            for batch in whole
        ]
    return whole


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [{}, {"flip": True}, AUGMENTED, AUGMENTED | {"context": 1}],
    ids=["plain", "flip", "crop", "neighbours"],
)
def test_caches_give_the_streamed_batches(data, fields):
    data.update(fields)
    streamed = batches(data, "none")
    assert len(streamed) == STEPS
    for cache in ("host", "device"):
        for start, hosts in ((0, 1), (0, 2), (13, 4)):
            cached = batches(data, cache, start, hosts)
            for ours, expected in zip(cached, streamed[start:], strict=True):
                assert ours.keys() == expected.keys()
                for key in ours:
                    assert ours[key].dtype == expected[key].dtype
                    np.testing.assert_array_equal(ours[key], expected[key])


def test_gathers_images_of_any_dimension_and_type():
    rng = np.random.default_rng(0)
    volumes = rng.integers(-1000, 3000, (5, 6, 7, 8, 2), np.int16)
    numbers = {
        "index": np.array([4, 0, 4]),
        "offset": np.array([[2, 0, 1], [0, 3, 4], [1, 1, 1]], np.int32),
        "flip": np.array([False, True, True]),
    }
    out = device_cache.gather({"source": volumes}, numbers, (4, 4, 4))["source"]
    assert out.dtype == np.int16
    for image, index, (z, y, x), flip in zip(out, *numbers.values(), strict=True):
        expected = volumes[index, z : z + 4, y : y + 4, x : x + 4]
        np.testing.assert_array_equal(image, expected[:, :, ::-1] if flip else expected)


def test_gathers_runs_of_slices_with_one_crop_each():
    slices = np.random.default_rng(0).integers(-1000, 3000, (9, 7, 8, 1), np.int16)
    numbers = {
        "index": np.array([[0, 1, 2], [6, 7, 8]]),
        "offset": np.array([[2, 1], [0, 4]], np.int32),
        "flip": np.array([False, True]),
    }
    out = device_cache.gather({"source": slices}, numbers, (4, 4))["source"]
    assert out.shape == (2, 3, 4, 4, 1)
    for run, index, (y, x), flip in zip(out, *numbers.values(), strict=True):
        expected = slices[index, y : y + 4, x : x + 4]
        np.testing.assert_array_equal(run, expected[:, :, ::-1] if flip else expected)


def test_neighbours_become_channels_in_order():
    slices = np.random.default_rng(0).integers(-1000, 3000, (2, 3, 4, 5, 2), np.int16)
    out = device_cache.as_channels({"source": slices, "target": slices + 1}, 1)
    np.testing.assert_array_equal(out["source"], np.concatenate(np.moveaxis(slices, 1, 0), -1))
    np.testing.assert_array_equal(out["target"], slices[:, 1] + 1)


@pytest.mark.slow
def test_a_step_with_neighbours_is_the_same_from_device_memory(data):
    config = tiny_config()
    config.data = data
    data.update({"image_size": 32, "load_size": 36, "flip": True, "context": 1})
    config.generator.depth = config.discriminator.strided_levels = 2
    mesh = sharding.make_mesh(1, data.batch_size, devices=2)
    system = build_system(config)
    abstract = abstract_state(system, config)
    assert abstract.generator.params["encode_0"]["kernel"].shape[-2] == 3
    ends = []
    for cache in ("none", "device"):
        data.cache = cache
        dataset = device_cache.put(pipeline.train_set(data), mesh) if cache == "device" else None
        state = fit.initial_state(system, config, sharding.state_shardings(mesh, abstract))
        step = fit.compile_step(system, config, mesh, abstract, dataset)
        for batch in pipeline.train_batches(data, 0, 2):
            state, metrics = step(state, sharding.to_global(batch, mesh))
        ends.append((state, metrics))
    jax.tree.map(np.testing.assert_array_equal, *ends)


def _train(workdir, data_dir, devices=1, **overrides):
    fields = {"epochs": 1, "constant_epochs": 1, "data.batch_size": 16, "data.flip": True}
    arguments = commands.tiny_training(
        workdir, data_dir, **fields | {"data.load_size": 70} | overrides
    )
    commands.run("launch.train", *arguments, devices=devices)
    return ocp.StandardCheckpointer().restore(workdir / "checkpoints" / "8" / "state")


@pytest.fixture(scope="module")
def streamed_run(tmp_path_factory, sample_data_dir):
    workdir = tmp_path_factory.mktemp("streamed")
    return workdir, _train(workdir, sample_data_dir)


@pytest.mark.slow
@pytest.mark.parametrize("cache", [pytest.param("host", marks=pytest.mark.long), "device"])
def test_a_run_ends_in_the_same_state(streamed_run, sample_data_dir, tmp_path, cache):
    workdir, expected = streamed_run
    state = _train(tmp_path, sample_data_dir, **{"data.cache": cache})
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert commands.metrics(tmp_path) == commands.metrics(workdir)


def test_refuses_what_does_not_fit_into_host_memory(data, monkeypatch):
    data.update(AUGMENTED | {"cache": "host"})
    needed = 142 * 2 * 143**2
    monkeypatch.setattr(memory, "available_bytes", lambda: needed / memory.SHARE)
    assert sum(x.nbytes for x in pipeline.train_set(data).values()) == needed
    pipeline.check_training(data)
    monkeypatch.setattr(memory, "available_bytes", lambda: needed / memory.SHARE - 2)
    with pytest.raises(DataError, match=r"config\.data\.cache needs 0\.01 GB of host memory"):
        pipeline.check_training(data)
    data.cache = "disk"
    with pytest.raises(DataError, match=r'config\.data\.cache is "disk": use one of none, host'):
        pipeline.check_training(data)


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    machine = memory.available_bytes()
    assert 1e8 < machine < 1e14
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500\n")
    (tmp_path / "memory.max").write_text("10000\n")
    assert memory.available_bytes() == 7500
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes() > 0.5 * machine


class _Device:
    """A device that tells how much memory it has, as all but CPUs do."""

    def __init__(self, free):
        self._free = free

    def memory_stats(self):
        return {"bytes_limit": 10**6 + self._free, "bytes_in_use": 10**6}

    def __str__(self):
        return "gpu:0"


class _Mesh:
    local_devices = (_Device(10**9), _Device(3000))


def test_refuses_what_does_not_fit_into_device_memory():
    with pytest.raises(ConfigError, match=r'config\.data\.cache="device" needs .* on gpu:0'):
        device_cache.put({"source": np.zeros((2, 10, 10, 8), np.uint8)}, _Mesh())
