"""The losses of each system's first steps, in float64, as they were when someone last meant them.

Weights and dropout come from the config's seed and batches from NumPy, so that nothing but the
mathematics moves the figures. After a change that is meant to move them:

    python -m tests.golden --write

and say in the commit why they moved. Without ``--write`` it prints how far they are.
"""

import dataclasses
import importlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jax_pix2pix.adversarial import create_state, train_step
from jax_pix2pix.workdir import build_system, example_batch

STEPS = 10
# Relative. Batch norms' first scales are float32, whose last bit depends on how XLA compiles them:
# optimised and unoptimised code differ by 1e-8 there, else by 1e-14.
TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Case:
    config: str  # a module of configs/
    variant: str
    overrides: dict


LIDC = {"data.image_size": 32, "generator.depth": 4}
XRAY = {"data.image_size": 32, "generator.depth": 5}
LIVER = {"data.image_size": 32}
LIVER_3D = {"loss.dice_weight": 0.0, "data.patch_size": 16, "data.depth": 16, "data.batch_size": 4}
CASES = {
    "lidc_mask2ct": Case("lidc_mask2ct", "", LIDC),
    "xray_lungs": Case("xray_lungs", "", XRAY),
    "xray_lungs_as_published": Case("xray_lungs", "as_published", XRAY),
    "liver": Case("liver", "", LIVER),
    "liver_as_published": Case("liver", "as_published", LIVER),
    "liver_3d_tumour": Case("liver_3d", "tumour", LIVER_3D),
}


def config_of(case):
    """The case's config, small, with a learning rate that decays in the last half of the steps."""
    config = importlib.import_module(f"configs.{case.config}").get_config(case.variant)
    common = {
        "dtype": "float64",
        "steps_per_epoch": 1,
        "epochs": STEPS,
        "constant_epochs": STEPS // 2,
        "data.batch_size": 2,
        "generator.width": 4,
        "discriminator.width": 4,
    }
    config.update_from_flattened_dict(common | case.overrides)
    return config


def batches(config):
    """STEPS stored batches of noise."""
    rng = np.random.default_rng(0)

    def noise(name, example):
        if f"{name}_range" in config.data:
            low, high = config.data[f"{name}_range"]
        else:
            low, high = (
                0,
                max(label for labels in config.evaluation.regions.values() for label in labels),
            )
        shape = (config.data.batch_size, *example.shape[1:])
        return rng.integers(low, high, shape, example.dtype, endpoint=True)

    for _ in range(STEPS):
        yield {name: noise(name, example) for name, example in example_batch(config).items()}


def losses(case):
    """-> {metric: [STEPS floats]}; needs JAX's 64-bit mode."""
    config = config_of(case)
    system = build_system(config)
    key = jax.random.key(config.seed)
    state = jax.jit(lambda batch: create_state(system, key, batch))(example_batch(config))
    state = jax.tree.map(
        lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, state
    )
    step = jax.jit(lambda state, batch: train_step(system, state, batch, key))
    lines = []
    for batch in batches(config):
        state, metrics = step(state, batch)
        lines.append(metrics)
    return {name: [float(line[name]) for line in lines] for name in sorted(lines[0])}


def path_of(name):
    return Path(__file__).parent / f"{name}.json"


def read(name):
    return json.loads(path_of(name).read_text())


def write(name, values):
    path_of(name).write_text(json.dumps(values, indent=1) + "\n")
