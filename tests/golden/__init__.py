"""The losses of each system's first steps, in float64, as they were when last written on purpose.

Weights and dropout come from the config's seed and batches from NumPy, so that only the mathematics
moves the figures. After a change that is meant to move them, run

    python -m tests.golden --write

and say in the commit why they moved. Without ``--write`` it prints how far they have moved.
"""

import dataclasses
import importlib
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jax_pix2pix.adversarial import create_state, train_step
from jax_pix2pix.runs.workdir import build_system, example_batch

STEPS = 20
TOLERANCE = 1e-6  # relative


@dataclasses.dataclass(frozen=True)
class Case:
    config: str  # a module of configs/
    variant: str
    overrides: dict


LIDC = {"data.image_size": 32, "generator.depth": 4}
XRAY = {"data.image_size": 32, "generator.depth": 5}
SEGMENTER = {"data.depth": 8, "data.image_size": 16, "generator.depth": 2}
LIVER = {"data.image_size": 32}
MRI = {"data.image_size": 64}
MRI_3D = {
    "data.patch_size": 32,
    "data.depth": 32,
    "loss.r1_weight": 1.0,
    "generator.self_attention": 3,
}
EXTENDED = {  # all optional parts at once
    "data.image_size": 64,
    "generator.self_attention": 4,
    "discriminator.spectral_norm": True,
    "discriminator.scales": 2,
    "diff_augment": "color,translation,cutout",
    "loss.adversarial": "hinge",
    "loss.r1_weight": 1.0,
    "loss.gradient_weight": 1.0,
    "loss.ms_ssim_weight": 1.0,
    "loss.ms_ssim_levels": 2,
    "ema_decay": 0.9,
}
LIVER_3D = {"loss.dice_weight": 0.0, "data.patch_size": 16, "data.depth": 16, "data.batch_size": 4}
PYRAMID = {  # its second scale, with images as large as stored
    "data.image_size": 18,
    "data.depth": 4,
    "pyramid.min_size": 12,
    "pyramid.max_size": 18,
    "pyramid.depth_divisor": 4,
    "pyramid.scale": 1,
    "loss.segmentation_weight": 0.0,  # its network changes with each embedded file
}
# The configs' numbers of updates take minutes to compile.
UPDATES = {"pyramid.discriminator_updates": 2, "pyramid.generator_updates": 1}
UPDATE = UPDATES | {"pyramid.discriminator_updates": 1}
CASES = {
    "lidc_mask2ct": Case("lidc_mask2ct", "", LIDC),
    "xray_lungs": Case("xray_lungs", "", XRAY),
    "xray_lungs_as_published": Case("xray_lungs", "as_published", XRAY),
    "lung_segmenter": Case("lung_segmenter", "", SEGMENTER),
    "liver": Case("liver", "", LIVER),
    "liver_as_published": Case("liver", "as_published", LIVER),
    "liver_3d_tumour": Case("liver_3d", "tumour", LIVER_3D),
    "ct_pyramid_2d": Case("ct_pyramid_2d", "", PYRAMID | UPDATES),
    "ct_pyramid_3d": Case("ct_pyramid_3d", "", PYRAMID | UPDATE),
    "ct_pyramid_3d_as_published": Case("ct_pyramid_3d", "as_published", PYRAMID | UPDATE),
    "mri2ct": Case("mri2ct", "", MRI),
    "mri2ct_as_published": Case("mri2ct", "as_published", MRI),
    "mri2ct_extended": Case("mri2ct", "extended", EXTENDED),
    "mri2ct_3d": Case("mri2ct_3d", "", MRI_3D),
}


def config_of(case):
    """The case's config, made small, whose learning rate decays in the last half of the steps."""
    config = importlib.import_module(f"configs.{case.config}").get_config(case.variant)
    common = {
        "dtype": "float64",
        "steps_per_epoch": 1,
        "epochs": STEPS,
        "data.batch_size": 2,
        "generator.width": 4,
        "discriminator.width": 4,
    }
    if "constant_epochs" in config:
        config.constant_epochs = STEPS // 2
    config.update_from_flattened_dict(common | case.overrides)
    return config


def batches(config):
    """STEPS stored batches of noise."""
    rng = np.random.default_rng(0)

    def noise(name, example):
        if name == "index":
            low, high = 0, 99
        elif "pyramid" in config:
            low, high = config.data.source_range
        elif f"{name}_range" in config.data:
            low, high = config.data[f"{name}_range"]
        elif "window_hu" in config.data:
            low, high = config.data.window_hu
        else:
            low, high = (
                0,
                max(label for labels in config.evaluation.regions.values() for label in labels),
            )
        shape = (config.data.batch_size, *example.shape[1:])
        return rng.integers(low, high, shape, example.dtype, endpoint=True)

    for _ in range(STEPS):
        yield {name: noise(name, example) for name, example in example_batch(config).items()}


def initial_state(system, config):
    """The state that training begins with, in float64.

    Batch norms' first scales would be drawn in float32, whose last bit depends on how XLA compiles
    that, and 20 steps make 1e-8 into 1e-5. So NumPy draws them here. A pyramid's coarser scales get
    larger weights, as fresh ones make flat images, whose variance is rounding, and each norm
    divides by that.
    """
    state = create_state(system, jax.random.key(config.seed), example_batch(config))
    rng = np.random.default_rng(0)

    def in_float64(path, x):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if re.fullmatch(r"\w+\.(params|frozen)\..*\.scale", name):
            return 1 + 0.02 * rng.normal(size=x.shape)
        return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    state = jax.tree_util.tree_map_with_path(in_float64, state)
    frozen = jax.tree.map(lambda x: 10 * x if x.ndim > 1 else x, state.generator.frozen)
    return state.replace(generator=state.generator.replace(frozen=frozen))


def losses(case):
    """-> {metric: [STEPS floats]}; needs JAX's 64-bit mode."""
    config = config_of(case)
    system = build_system(config)
    key = jax.random.key(config.seed)
    state = jax.jit(lambda: initial_state(system, config))()
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


def distance(values, expected):
    """The largest relative difference; infinite if values are not finite or lengths differ."""
    largest = 0.0
    for metric, numbers in expected.items():
        ours, theirs = np.asarray(values[metric], float), np.asarray(numbers, float)
        if ours.shape != theirs.shape or not np.isfinite([ours, theirs]).all():
            return np.inf
        apart = np.abs(ours - theirs) / np.where(theirs, np.abs(theirs), np.finfo(float).tiny)
        largest = max(largest, apart.max(initial=0.0))
    return largest
