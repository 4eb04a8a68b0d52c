"""Scores a trained generator on a split, beside baselines that need no network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jax_pix2pix.adversarial import generate
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.sharding import replicated, to_global

USED = ("source", "target", "index")  # from a batch


def slice_scorer(system, mesh=None):
    """Compiles the task's metrics, dropout off; over all processes of a mesh if one is given.

    Returns:
        (generator, batches) -> (index, {name: float64 [n]}), as `collect`. The generator is a
        Network, batches an iterable of stored batches with "index", which is -1 on padding.
    """

    @functools.partial(jax.jit, out_shardings=mesh and replicated(mesh))
    def score(generator, batch):
        source, target = system.normalise(batch)
        scores = system.task.metrics(generate(system, generator, source), target)
        return scores | {"index": _index(system.task, batch)}

    def score_all(generator, batches):
        if mesh:
            batches = (to_global(batch, mesh) for batch in batches)
        return collect(functools.partial(score, generator), batches)

    return score_all


def training_statistics(system, batches):
    """Fits the baselines: the mean training target, and the best affine map of the source.

    Args:
        batches: iterable of stored batches of the training split with "index".

    Returns:
        (mean target [h, w, c], slope, intercept); slope * source + intercept is the least-squares
        fit to the target over all training pixels.
    """

    @jax.jit
    def sums(batch):
        source, target = system.normalise(batch)
        source = _middle(source)
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

    image_sum, totals = np.zeros(()), np.zeros(5)
    for batch in batches:
        image, moments = jax.device_get(sums({name: batch[name] for name in USED}))
        image_sum, totals = image_sum + image, totals + moments
    count = totals[0]
    check_any_counted(count)
    source, target, source_squared, product = totals[1:] / count
    slope = (product - source * target) / (source_squared - source**2)
    return image_sum / count, slope, target - slope * source


def score_baselines(system, statistics, batches):
    """Scores both baselines: (index, {baseline: {name: [n]}}); see training_statistics."""
    mean_image, slope, intercept = statistics
    mean_image = jnp.asarray(mean_image, jnp.float32)

    @jax.jit
    def score(batch):
        source, target = system.normalise(batch)
        fakes = {
            "mean_training_target": jnp.broadcast_to(mean_image, target.shape),
            "scaled_source": slope * _middle(source) + intercept,
        }
        scores = {
            f"{name} {metric}": values
            for name, fake in fakes.items()
            for metric, values in system.task.metrics(fake, target).items()
        }
        return scores | {"index": batch["index"]}

    index, columns = collect(score, batches)
    results = {}
    for key, column in columns.items():
        name, metric = key.split(" ")
        results.setdefault(name, {})[metric] = column
    return index, results


def _middle(source):
    """Selects the target's slice [..., 1] from neighbouring ones [..., c]."""
    middle = source.shape[-1] // 2
    return source[..., middle : middle + 1]


def summarise(task, scores, groups):
    """Summarises scores as the task does, overall and by group.

    Args:
        scores: {name: [n]}, from slice_scorer.
        groups: n labels, such as patients.

    Returns:
        {"overall": {name: value, "images": n}, "by_group": {label: the same}}.
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
        return source, generate(system, generator, source), target, _index(system.task, batch)

    return outputs


def _index(task, batch):
    return batch["index"][:, 0] if task.whole else batch["index"]


def slices_of(outputs):
    """Extracts (source, fake, target), NumPy [h, w, c] each, of every example but padding.

    A 3D example gives the middle one of its slices that are not padding.
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
    """Computes (source, fake, target), NumPy [h, w, c] each, of the wanted indices, in order.

    Args:
        batches: stored batches of a whole split with "index"; those without a wanted slice are
            skipped.
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
    """Finds two places of each kind in a list of scores, highest first: [("best", place), ...]."""
    ranked = np.argsort(values)[::-1]
    middle = len(ranked) // 2
    groups = {"best": ranked[:2], "median": ranked[middle : middle + 2], "worst": ranked[-2:]}
    return [(name, int(place)) for name, group in groups.items() for place in group]


def check_any_counted(count):
    """Raises ConfigError if a split has nothing to score."""
    if not count:
        raise ConfigError(
            "no example of the split can be read whole, so there is nothing to score: prepare the "
            "data again"
        )


def collect(score, batches):
    """Scores the slices of all batches that are not padding, in the order of their index.

    Args:
        score: batch -> {"index", name: [b] or [b, d]}.

    Returns:
        (index, int64 [n], {name: float64 [n]}). Slices that could not be read are left out.

    Raises:
        ConfigError: no slice is left.
    """
    indices, columns = [], {}
    for batch in batches:
        scores = jax.device_get(score({name: batch[name] for name in USED}))
        index = scores.pop("index")
        indices.append(index[index >= 0])
        for name, values in scores.items():
            columns.setdefault(name, []).append(np.asarray(values, np.float64)[index >= 0])
    index = np.concatenate(indices)
    check_any_counted(len(index))
    order = np.argsort(index)
    return index[order], {name: np.concatenate(parts)[order] for name, parts in columns.items()}
