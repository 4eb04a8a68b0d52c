"""Scores of a trained generator on a split, beside baselines that need no network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jax_pix2pix.adversarial import generate
from jax_pix2pix.sharding import replicated, to_global

USED = ("source", "target", "index")  # of a batch


def slice_scorer(system, mesh=None):
    """Compiles the task's metrics, dropout off; over all processes of a mesh if one is given.

    Returns:
        (generator, batches) -> {name: float64 [n]}, a value a slice in the order of their index:
        for a Network and an iterable of stored batches with "index", which is -1 on padding.
    """

    @functools.partial(jax.jit, out_shardings=mesh and replicated(mesh))
    def score(generator, batch):
        source, target = system.normalise(batch)
        scores = system.task.metrics(generate(system, generator, source), target)
        return scores | {"index": batch["index"]}

    def score_all(generator, batches):
        if mesh:
            batches = (to_global(batch, mesh) for batch in batches)
        return collect(functools.partial(score, generator), batches)

    return score_all


def training_statistics(system, batches):
    """What the baselines know: the mean training target, and the best affine map of the source.

    Args:
        batches: iterable of stored batches of the training split with "index".

    Returns:
        (mean target [h, w, c], slope, intercept), with slope * source + intercept the
        least-squares fit to the target over all training pixels.
    """

    @jax.jit
    def sums(batch):
        source, target = system.normalise(batch)
        weight = (batch["index"] >= 0).reshape(-1, *(1,) * (source.ndim - 1))
        moments = jnp.stack(
            [
                (weight * product).mean((1, 2, 3)).sum()
                for product in (
                    jnp.ones_like(source),
                    source,
                    target,
                    source * source,
                    source * target,
                )
            ]
        )
        return (weight * target).sum(0), moments

    parts = [jax.device_get(sums({name: batch[name] for name in USED})) for batch in batches]
    image_sum = np.stack([image for image, _ in parts]).astype(np.float64).sum(0)
    totals = np.stack([moments for _, moments in parts]).astype(np.float64).sum(0)
    count = totals[0]
    source, target, source_squared, product = totals[1:] / count
    slope = (product - source * target) / (source_squared - source**2)
    return image_sum / count, slope, target - slope * source


def score_baselines(system, statistics, batches):
    """The metrics of both baselines: {baseline: {name: [n]}}; see training_statistics."""
    mean_image, slope, intercept = statistics
    mean_image = jnp.asarray(mean_image, jnp.float32)

    @jax.jit
    def score(batch):
        source, target = system.normalise(batch)
        fakes = {
            "mean_training_target": jnp.broadcast_to(mean_image, target.shape),
            "scaled_source": slope * source + intercept,
        }
        scores = {
            f"{name} {metric}": values
            for name, fake in fakes.items()
            for metric, values in system.task.metrics(fake, target).items()
        }
        return scores | {"index": batch["index"]}

    results = {}
    for key, column in collect(score, batches).items():
        name, metric = key.split(" ")
        results.setdefault(name, {})[metric] = column
    return results


def summarise(task, scores, groups):
    """The task's summary, overall and by group.

    Args:
        scores: {name: [n]}, from slice_scorer.
        groups: n labels, such as patients.

    Returns:
        {"overall": {name: value, "images": n}, "by_group": {label: likewise}}.
    """
    groups = np.asarray(groups)

    def summary(rows):
        values = task.summarise({k: v[rows] for k, v in scores.items()}, groups[rows])
        return values | {"images": int(np.sum(rows))}

    return {
        "overall": summary(np.ones(len(groups), bool)),
        "by_group": {str(label): summary(groups == label) for label in np.unique(groups)},
    }


def output_function(system, mesh=None):
    """Compiles (generator, batch) -> (source, fake, target, index), for ``slices_of``."""

    @functools.partial(jax.jit, out_shardings=mesh and replicated(mesh))
    def outputs(generator, batch):
        source, target = system.normalise(batch)
        return source, generate(system, generator, source), target, batch["index"]

    return outputs


def slices_of(outputs):
    """(source, fake, target), NumPy [h, w, c] each, of every example that is no padding.

    Of a 3D example, the middle one of its slices that are no padding.
    """
    *images, index = jax.device_get(outputs)
    rows = []
    for *triple, slices in zip(*images, index, strict=True):
        counted = np.flatnonzero(np.atleast_1d(slices) >= 0)
        if counted.size:
            middle = counted[counted.size // 2]
            rows.append([x[middle] for x in triple] if index.ndim > 1 else triple)
    return rows


def slices_at(system, generator, batches, wanted):
    """(source, fake, target), NumPy [h, w, c] each, of the slices with these indices, in order.

    Args:
        batches: stored batches of a whole split with "index"; those without a wanted slice are
            passed over.
    """
    outputs = output_function(system)
    found = {}
    for batch in batches:
        if np.isin(batch["index"], wanted).any():
            *images, index = jax.device_get(outputs(generator, {k: batch[k] for k in USED}))
            for place in np.argwhere(np.isin(index, wanted)):
                found[int(index[tuple(place)])] = tuple(image[tuple(place)] for image in images)
    return [found[int(index)] for index in wanted]


def best_median_worst(values):
    """Two places each of a list of scores, highest first: [("best", place), ...]."""
    ranked = np.argsort(values)[::-1]
    middle = len(ranked) // 2
    groups = {"best": ranked[:2], "median": ranked[middle : middle + 2], "worst": ranked[-2:]}
    return [(name, int(place)) for name, group in groups.items() for place in group]


def collect(score, batches):
    indices, columns = [], {}
    for batch in batches:
        scores = jax.device_get(score({name: batch[name] for name in USED}))
        index = scores.pop("index")
        indices.append(index[index >= 0])
        for name, values in scores.items():
            columns.setdefault(name, []).append(np.asarray(values, np.float64)[index >= 0])
    order = np.argsort(np.concatenate(indices))
    return {name: np.concatenate(parts)[order] for name, parts in columns.items()}
