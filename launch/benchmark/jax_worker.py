"""The process that measures JAX, on requests of ``launch.benchmark`` from standard input."""

import platform
import sys
import time
from importlib import metadata
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from jax_pix2pix import device_cache, sharding
from jax_pix2pix.adversarial import TrainState
from jax_pix2pix.fit import initial_state, lower_step
from jax_pix2pix.memory import release_freed
from jax_pix2pix.runs import workdir
from launch.benchmark import measures
from launch.benchmark.processes import peak_resident_bytes, serve, timed
from launch.process import distributed

WARM_UP_CALLS = 3
HEARTBEAT_SECONDS = 100


class Measurements:
    """One system, batch size and number of devices; each method is a request."""

    config: Any  # ConfigDict
    batches: Any = None  # endless iterator of real input
    dataset: Any = None  # on the device, with config.data.cache="device"
    state: TrainState

    def build(self, config, devices, steps_per_call, real_input, cache_dir):
        """Compiles, cold if cache_dir is empty, and warms up. -> facts about the step."""
        compile_seconds, step_seconds = self._prepare(
            config, devices, steps_per_call, real_input, cache_dir, jax.devices()
        )
        device = self.mesh.devices.flat[0]
        xla = measures.xla_cost(self.compiled, self.mesh.size)
        if self.config.accumulate > 1:  # a loop, of whose body XLA counts one pass
            xla = dict.fromkeys(xla)
        return {
            "platform": device.platform,
            "device_kind": device.device_kind,
            "devices": self.mesh.size,
            "tf32": measures.rounds_to_tf32(device),
            "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "flax")}
            | {"python": platform.python_version()},
            "compile_seconds": compile_seconds,
            "trial_step_seconds": step_seconds,
            "flops_analytic": measures.step_flops(self.system, self.config),
            "xla": xla,
        }

    def _prepare(self, config, devices, steps_per_call, real_input, cache_dir, of):
        """-> (seconds to compile, seconds of a step, which are process 0's on all)."""
        self.config = ml_collections.ConfigDict(config)
        self.steps_per_call = steps_per_call
        self.mesh = sharding.make_mesh(
            self.config.fsdp,
            self.config.data.batch_size,
            devices,
            of=of,
            accumulate=self.config.accumulate,
        )
        self.config.steps_per_epoch = 1000  # synthetic input: keeps the learning rate
        if real_input:
            self._open_input()
        self.system = workdir.build_system(self.config)
        self.compiled, compile_seconds = measures.timed_compile(self._lower, cache_dir)
        release_freed()  # as training does
        abstract = workdir.abstract_state(self.system, self.config)
        shardings = sharding.state_shardings(self.mesh, abstract)
        self.state = initial_state(self.system, self.config, shardings)
        self.batch = self._to_devices([self._next(n) for n in range(steps_per_call)])
        start = time.perf_counter()
        for _ in range(WARM_UP_CALLS):
            start = time.perf_counter()
            self._call()
        seconds = np.float64((time.perf_counter() - start) / steps_per_call)
        if jax.process_count() > 1:  # all measure as many steps
            seconds = multihost_utils.broadcast_one_to_all(np.float32(seconds))
        return compile_seconds, float(seconds)

    def one_device(self, count, cache_dir):
        """Times the step on one device of each process, with its share of the global batch.

        Ask for it last: what was built before is freed.
        """
        share = self.config.copy_and_resolve_references()
        share.fsdp, share.data.batch_size = 1, share.data.batch_size // self.mesh.size
        steps_per_call = self.steps_per_call
        del self.state, self.compiled, self.batch
        self._prepare(share, 1, steps_per_call, False, cache_dir, jax.local_devices())
        return self.steps(count)

    def _lower(self):
        abstract = workdir.abstract_state(self.system, self.config)
        lowered, self.names = lower_step(
            self.system, self.config, self.mesh, abstract, self.dataset, self.steps_per_call
        )
        return lowered

    def compile_again(self, cache_dir):
        """Seconds to compile the step once more, with the cache_dir of ``build``."""
        return measures.timed_compile(self._lower, cache_dir)[1]

    def _open_input(self):
        """Opens the input as launch.train does, but without end."""
        from input_pipeline import order, pipeline, prepared  # TensorFlow: for real input alone

        data = self.config.data
        prepared.ensure_prepared(data)
        examples = pipeline.num_training_examples(data)
        self.config.steps_per_epoch = order.steps_per_epoch(examples, data.batch_size)
        host, hosts = sharding.host_rows(self.mesh, data.batch_size)
        self.batches = pipeline.train_batches(data, 0, np.iinfo(np.int64).max, host, hosts)
        if data.cache == "device":
            self.dataset = device_cache.put(pipeline.train_set(data), self.mesh)

    def _next(self, number):
        """A batch to measure steps with."""
        if self.batches:
            return next(self.batches)
        rng = np.random.default_rng(number)
        _, hosts = sharding.host_rows(self.mesh, self.config.data.batch_size)
        rows = self.config.data.batch_size // hosts
        return {
            name: rng.integers(0, 255, (rows, *x.shape[1:])).astype(x.dtype)
            for name, x in workdir.example_batch(self.config).items()
        }

    def _to_devices(self, batches):
        """steps_per_call batches -> the argument of the compiled step."""
        if self.steps_per_call == 1:
            return sharding.to_global({name: batches[0][name] for name in self.names}, self.mesh)
        stacked = {name: np.stack([batch[name] for batch in batches]) for name in self.names}
        sharded = sharding.stacked_batch_sharding(self.mesh)
        return {
            name: jax.make_array_from_process_local_data(sharded, x) for name, x in stacked.items()
        }

    def _call(self):
        self.state, metrics = self.compiled(self.state, self.dataset, self.batch)
        jax.block_until_ready((self.state, metrics))

    def steps(self, count):
        """Times steps on one batch on the devices. -> seconds of each step, and CPU seconds."""
        return timed(self._call, count, self.steps_per_call)

    def generator(self, count):
        """Times G's forward pass alone, with dropout and without gradient."""
        if not hasattr(self, "forward"):
            self.forward = jax.jit(self._forward).lower(self.state.generator, self.batch).compile()
            for _ in range(WARM_UP_CALLS):
                jax.block_until_ready(self.forward(self.state.generator, self.batch))
        return timed(
            lambda: jax.block_until_ready(self.forward(self.state.generator, self.batch)), count
        )

    def _forward(self, generator, batch):
        if self.steps_per_call > 1:
            batch = jax.tree.map(lambda x: x[0], batch)
        if self.dataset:
            size = workdir.example_batch(self.config)["source"].shape[1:-1]
            batch = device_cache.gather(self.dataset, batch, size)
        source, _ = self.system.normalise(batch)
        variables = {
            "params": generator.params,
            "batch_stats": generator.batch_stats,
            "frozen": generator.frozen or {},
        }
        key = jax.random.key(self.config.seed)
        fake, _ = self.system.generator.apply(
            variables,
            source,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key, "noise": key},
        )
        return fake

    def input_alone(self, seconds):
        """Batches per second of the pipeline, after its buffers are drained."""
        end = time.perf_counter() + seconds / 4
        while time.perf_counter() < end:
            next(self.batches)
        count, start = 0, time.perf_counter()
        while count < 3 or time.perf_counter() < start + seconds:
            next(self.batches)
            count += 1
        return {"batches_per_second": count / (time.perf_counter() - start)}

    def together(self, count):
        """Times training on real input; a call's metrics are read once the next call is sent."""
        calls = max(2, round(count / self.steps_per_call))
        waited, pending = 0.0, None
        jax.block_until_ready(self.state)
        start = time.perf_counter()
        for _ in range(calls):
            asked = time.perf_counter()
            batches = [next(self.batches) for _ in range(self.steps_per_call)]
            # Counted as in fit: while the device computes, waiting costs nothing.
            if all(x.is_ready() for x in jax.tree.leaves(pending)):
                waited += time.perf_counter() - asked
            self.state, metrics = self.compiled(self.state, self.dataset, self._to_devices(batches))
            jax.device_get(pending)
            pending = metrics
        jax.block_until_ready((self.state, pending))
        total = time.perf_counter() - start
        return {
            "seconds_a_step": total / (calls * self.steps_per_call),
            "waited_fraction": waited / total,
        }

    def memory(self):
        """Peak memory. Ask before ``compile_again`` and ``peaks``, which take memory too."""
        if (peak := measures.device_memory_peak(self.mesh.local_devices)) is not None:
            return {"bytes": peak, "of": "device"}
        return {"bytes": peak_resident_bytes(), "of": "process"}

    def peaks(self):
        return {
            "matmul_flops_per_second": measures.matmul_peak(self.mesh, self.config.dtype),
            "copy_bytes_per_second": measures.copy_peak(self.mesh),
        }

    def profile(self, directory, count):
        """Writes a trace of some steps that TensorBoard and Perfetto show."""
        with jax.profiler.trace(directory):
            for _ in range(max(1, round(count / self.steps_per_call))):
                self._call()


def start():
    """Finds the other processes, as training does. -> {"process": its number, "processes"}."""
    distributed.initialize(HEARTBEAT_SECONDS)
    return {"process": jax.process_index(), "processes": jax.process_count()}


if __name__ == "__main__":
    flags.FLAGS(sys.argv)
    measurements = Measurements()
    serve(
        {"start": start}
        | {
            name: getattr(measurements, name)
            for name in (
                "build", "steps", "generator", "input_alone", "together", "profile", "memory",
                "compile_again", "peaks", "one_device",
            )
        }
    )  # fmt: skip
