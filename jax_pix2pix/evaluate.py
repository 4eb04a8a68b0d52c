"""Scores of a trained generator on a split, beside baselines that need no network."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_pix2pix.adversarial import generate


def score_images(system, generator, batches):
    """Every image's metrics, dropout off.

    Args:
        system: System.
        generator: Network.
        batches: iterable of stored batches with "index", which is -1 on padding.

    Returns:
        {name: float64 [n]} with one entry per example, in the order of their index.
    """

    @jax.jit
    def score(batch):
        source, target = system.normalise(batch)
        return system.metrics(generate(system, generator, source), target)

    return _collect(score, batches)


def training_statistics(system, batches):
    """What the baselines know: the mean training target, and the best affine map of the source.

    Args:
        batches: iterable of stored batches of the training split with "weight".

    Returns:
        (mean target [h, w, c], slope, intercept), with slope * source + intercept the
        least-squares fit to the target over all training pixels.
    """

    @jax.jit
    def sums(batch):
        source, target = system.normalise(batch)
        weight = batch["weight"].reshape(-1, *(1,) * (source.ndim - 1))
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

    parts = [jax.device_get(sums(_arrays(batch))) for batch in batches]
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
        scores = {name: system.metrics(fake, target) for name, fake in fakes.items()}
        return {
            (name, metric): v for name, columns in scores.items() for metric, v in columns.items()
        }

    results = {}
    for (name, metric), column in _collect(score, batches).items():
        results.setdefault(name, {})[metric] = column
    return results


def summarise(scores, groups):
    """Means overall and by group.

    Args:
        scores: {name: [n]}.
        groups: n labels, such as patients.

    Returns:
        {"overall": {name: mean, "images": n}, "by_group": {label: likewise}}.
    """
    groups = np.asarray(groups)

    def means(rows):
        values = {name: float(np.mean(column[rows])) for name, column in scores.items()}
        return values | {"images": int(np.sum(rows))}

    return {
        "overall": means(np.ones(len(groups), bool)),
        "by_group": {str(label): means(groups == label) for label in np.unique(groups)},
    }


def images_of(system, generator, batches):
    """(source, fake, target) of all examples, [h, w, c] each, in their order."""

    @jax.jit
    def outputs(batch):
        source, target = system.normalise(batch)
        return source, generate(system, generator, source), target

    found = []
    for batch in batches:
        images = zip(*jax.device_get(outputs(_arrays(batch))), strict=True)
        found += [
            triple for triple, index in zip(images, batch["index"], strict=True) if index >= 0
        ]
    return found


def _arrays(batch):
    return {name: batch[name] for name in ("source", "target", "weight")}


def _collect(score, batches):
    indices, columns = [], {}
    for batch in batches:
        real = batch["index"] >= 0
        indices.append(batch["index"][real])
        for name, values in jax.device_get(score(_arrays(batch))).items():
            columns.setdefault(name, []).append(np.asarray(values, np.float64)[real])
    order = np.argsort(np.concatenate(indices))
    return {name: np.concatenate(parts)[order] for name, parts in columns.items()}
