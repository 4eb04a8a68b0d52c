"""Overfits eight slices of the sample: python -m tests.learn [--ssim=unclipped] [--dtype=bfloat16]

Prints their SSIM every 100 steps, with dropout off. It is a process of its own, because the tests'
XLA_FLAGS make compiled code slow.
"""

import jax
import numpy as np
from absl import app, flags

from configs.lidc_mask2ct import get_config
from input_pipeline import pipeline, prepared
from jax_pix2pix.adversarial import create_state, generate, train_step
from jax_pix2pix.runs.workdir import build_system

_DATA_DIR = flags.DEFINE_string("data_dir", "data/sample", "prepared sample")
_SSIM = flags.DEFINE_string("ssim", "dm_pix", "config.loss.ssim")
_DTYPE = flags.DEFINE_string("dtype", "float32", "config.dtype")

STEPS = 400


def main(argv):
    del argv
    config = get_config("quickstart")
    config.data.data_dir = _DATA_DIR.value
    config.data.batch_size = 8
    config.loss.ssim = _SSIM.value
    config.dtype = _DTYPE.value
    config.steps_per_epoch = 1
    config.epochs = config.constant_epochs = STEPS
    system = build_system(config)

    prepared.ensure_prepared(config.data)
    # Eight slices from the bases to the apices.
    chosen = np.linspace(0, pipeline.num_training_examples(config.data) - 1, 10).astype(int)[1:-1]
    (batch,) = pipeline.eval_batches(config.data, "train", indices=chosen)
    key = jax.random.key(config.seed)
    state = jax.jit(lambda batch: create_state(system, key, batch))(batch)
    step = jax.jit(lambda state: train_step(system, state, batch, key), donate_argnums=0)

    @jax.jit
    def score(generator):
        source, target = system.normalise(batch)
        return system.task.metrics(generate(system, generator, source), target)["ssim"].mean()

    for number in range(1, STEPS + 1):
        state, _ = step(state)
        if number % 100 == 0:
            print(f"step {number} ssim {score(state.generator):.4f}", flush=True)


if __name__ == "__main__":
    app.run(main)
