"""Checks that tests on CPUs cannot make, to be run on a GPU or TPU, without TensorFlow.

    python -m tests.accelerator images --file=IMAGES.npz    # anywhere: the embedded chest CT
    python -m tests.accelerator resume --file=IMAGES.npz    # on the GPU or TPU
    python -m tests.accelerator quality --file=IMAGES.npz

"resume" trains twice, once with a SIGKILL in the middle. Each start is a process of its own with
the XLA_FLAGS of the environment. It says whether all weights, moments and losses are equal bit for
bit. "quality" trains the quickstart with three seeds in float32 and in bfloat16 and prints SSIM and
L1 on the held-out patient.
"""

import hashlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile

import jax
import numpy as np
from absl import app, flags

from configs.lidc_mask2ct import get_config
from jax_pix2pix import sharding
from jax_pix2pix.adversarial import create_state, generate, train_step
from jax_pix2pix.fit import Batches, fit
from jax_pix2pix.logs.metrics_log import read_metrics
from jax_pix2pix.runs import workdir, workdir_files
from jax_pix2pix.runs.checkpoint import Checkpoints

_FILE = flags.DEFINE_string("file", None, "images of the sample", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "of one start, which prints its run's digest")
_KILL_AT = flags.DEFINE_integer("kill_at", 0, "the step of that start at which it gets SIGKILL")

RESUMED_STEPS, KILLED_AT = 40, 27
SEEDS = 3


def write_images():
    """Writes {split_source, split_target}: integers [n, 128, 128, 1]."""
    from input_pipeline import pipeline, prepared

    data = get_config("quickstart").data
    prepared.ensure_prepared(data)
    images = {f"train_{name}": x for name, x in pipeline.train_set(data).items()}
    batches = list(pipeline.eval_batches(data, "test"))
    counted = np.concatenate([batch["index"] for batch in batches]) >= 0
    for name in ("source", "target"):
        images[f"test_{name}"] = np.concatenate([batch[name] for batch in batches])[counted]
    np.savez_compressed(_FILE.value, **images)


def read_images(split):
    with np.load(_FILE.value, allow_pickle=False) as file:
        return {name: file[f"{split}_{name}"] for name in ("source", "target")}


def examples(seed, step, count, batch_size):
    """Indices of the examples of a step. Each epoch has its own order."""
    epoch, place = divmod(step * batch_size, count - count % batch_size)
    return np.random.default_rng((seed, epoch)).permutation(count)[place : place + batch_size]


def resume():
    """Returns whether a killed run equals one that was not killed."""
    digests = []
    for kill_at in (0, KILLED_AT):
        with tempfile.TemporaryDirectory() as directory:
            if kill_at:
                assert _start(directory, kill_at).returncode == -signal.SIGKILL
            digests.append(_start(directory, 0).stdout.splitlines()[-1])
    print(f"not killed   {digests[0]}\nkilled at {KILLED_AT} {digests[1]}")
    equal = digests[0] == digests[1]
    print(
        f"{RESUMED_STEPS} steps on {jax.devices()[0].device_kind}, "
        f"XLA_FLAGS={os.environ.get('XLA_FLAGS', '')!r}: {'equal' if equal else 'different'}"
    )
    return equal


def _start(directory, kill_at):
    command = [sys.executable, "-m", "tests.accelerator", "start", f"--file={_FILE.value}"]
    command += [f"--workdir={directory}", f"--kill_at={kill_at}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done
    return done


def start():
    """Trains to the end, or to the kill, and prints a digest of the last state and all losses."""
    config = get_config()
    config.data.batch_size = 8
    config.steps_per_epoch = RESUMED_STEPS // 2
    config.epochs, config.constant_epochs = 2, 1
    config.log_every_steps = 1
    config.checkpoint_every_steps = 5
    config.dtype = "bfloat16"
    images, test = read_images("train"), read_images("test")

    def train_batches(start_step):
        for step in itertools.count(start_step):
            if _KILL_AT.value and step == _KILL_AT.value:
                os.kill(os.getpid(), signal.SIGKILL)
            index = examples(config.seed, step, len(images["source"]), config.data.batch_size)
            yield {name: x[index] for name, x in images.items()} | {"index": index}

    def validation_batches():
        index = np.arange(config.data.batch_size)
        yield {name: x[index] for name, x in test.items()} | {"index": index}

    mesh = sharding.make_mesh(1, config.data.batch_size, 1)
    system = workdir.build_system(config)
    directory = _WORKDIR.value
    patients = ["patient"] * config.data.batch_size
    fit(
        system,
        config,
        mesh,
        directory,
        Batches(train_batches, validation_batches, patients, validation_batches),
    )
    abstract = workdir.abstract_state(system, config)
    placed = sharding.with_shardings(abstract, sharding.state_shardings(mesh, abstract))
    path = workdir_files.checkpoint_path(directory)
    checkpoints = Checkpoints(path, system.task.best_metric, read_only=True)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(checkpoints.restore(RESUMED_STEPS, placed)):
        digest.update(np.asarray(leaf).tobytes())
    for line in read_metrics(directory):
        if line["split"] == "train":
            digest.update(f"{line['step']} {line['loss_G']} {line['loss_D']}".encode())
    print(digest.hexdigest())


def quality():
    """Prints a line for each dtype and score."""
    train, test = read_images("train"), read_images("test")
    for dtype in ("float32", "bfloat16"):
        config = get_config("quickstart")
        config.dtype = dtype
        config.steps_per_epoch = len(train["source"]) // config.data.batch_size
        steps = config.epochs * config.steps_per_epoch
        system = workdir.build_system(config)
        train_step_of, score = _compiled(system, config, train, test)
        scores = []
        for seed in range(SEEDS):
            key = jax.random.key(seed)
            batch = workdir.example_batch(config)
            state = jax.jit(lambda key: create_state(system, key, batch))(key)  # noqa: B023
            for step in range(steps):
                index = examples(seed, step, len(train["source"]), config.data.batch_size)
                state = train_step_of(state, index.astype(np.int32), key)
            scores.append(jax.device_get(score(state.generator)))
        for name in ("ssim", "l1"):
            values = [float(x[name]) for x in scores]
            listed = ", ".join(f"{x:.4f}" for x in values)
            print(f"{dtype:8} {name:4} of {SEEDS} seeds, {steps} steps: {listed}", flush=True)


def _compiled(system, config, train, test):
    images = jax.tree.map(jax.numpy.asarray, train)
    held_out = jax.tree.map(jax.numpy.asarray, test)

    @jax.jit
    def step(state, index, key):
        batch = {name: x[index] for name, x in images.items()} | {"index": index}
        return train_step(system, state, batch, key)[0]

    @jax.jit
    def score(generator):
        source, target = system.normalise(held_out)
        fake = generate(system, generator, source)
        ssim = system.task.metrics(fake, target)["ssim"].mean()
        return {"ssim": ssim, "l1": jax.numpy.abs(fake - target).mean()}

    return step, score


def main(argv):
    actions = {"images": write_images, "resume": resume, "quality": quality, "start": start}
    return 1 if actions[argv[1]]() is False else 0


if __name__ == "__main__":
    app.run(main)
