"""Scores a pyramid: its memorisation of training volumes, and its samples."""

import functools
import itertools

import jax
import numpy as np

from jax_pix2pix.adversarial import generate
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.evaluation.report import write_csv, write_json, write_picture
from jax_pix2pix.evaluation.slices import check_any_counted
from jax_pix2pix.inference.sample_pictures import picture_of_planes, three_planes
from jax_pix2pix.inference.samples import trained_spacing_mm
from jax_pix2pix.inference.sampling import sample
from jax_pix2pix.metrics import bootstrap, sample_scores
from jax_pix2pix.metrics.mask_scores import by_score, json_case, over_cases, table_of

COUNT = 16  # samples
SHOWN = 4  # samples in the picture
PROTOCOLS = sample_scores.PROTOCOLS | {
    "held_out": "volumes of the test split whose patients are not in training, at the same size: "
    "how far other patients are",
    "interval_95": f"{bootstrap.PROTOCOL}; each sample counts as a patient",
}


def evaluate(run, dataset, split, progress=None, count=COUNT, seed=0, volumes=0):
    """Scores reconstructions, samples and held-out volumes.

    Args:
        run: Run of a scale.
        dataset: input_pipeline.Dataset of its data.
        split: "train", the split that is reconstructed.
        progress: (done, total) -> None, for samples and volumes together.
        count: samples to draw, by keys that follow from seed.
        volumes: how many first examples to score of training and of held-out ones; 0 is all.

    Returns:
        (results, table, write) of an Evaluation.

    Raises:
        ConfigError: count or volumes do not fit.
    """
    if count < 2:
        raise ConfigError(f"count={count}: use 2 or more, as diversity is between samples")
    if volumes < 0:
        raise ConfigError(f"volumes={volumes}: use 1 or more, or 0 for all")
    config, system = run.config, run.system
    describe = _describe(config, system, run.discriminator)
    key = jax.random.key(seed)
    numbers = {name: _wanted(dataset, name, volumes) for name in ("test", split)}
    told = _counted(progress, count + sum(map(len, numbers.values())))
    samples = []
    for number in range(count):
        drawn = sample(config, system, run.generator, jax.random.fold_in(key, number))
        samples.append(describe(drawn))
        told()
    patients = {example.patient for example in dataset.examples(split)}
    held_out, whose = [], []
    for example, real, _ in _volumes(run, dataset, None, "test", numbers["test"], told):
        if example.patient not in patients:
            held_out.append(describe(real))
            whose.append(example)

    remembered, deviations, pairs, shown = [], [], [[] for _ in samples + held_out], {}
    for example, real, made in _volumes(run, dataset, run.generator, split, numbers[split], told):
        facts = describe(real)
        deviations.append(facts.hu.std(dtype=np.float64))
        remembered.append((example, sample_scores.memorisation((made + 1) / 2, (real + 1) / 2)))
        for of_pairs, other in zip(pairs, samples + held_out, strict=True):
            of_pairs.append(sample_scores.distances(other, facts))
        if not shown:
            shown = {"training volume": facts.hu, "its reconstruction": system.output(made)}

    distances = [sample_scores.over_training(of_pairs) for of_pairs in pairs]
    names = [f"sample {number}" for number in range(count)]
    groups = {
        "memorisation": _group([e for e, _ in remembered], [scores for _, scores in remembered]),
        "samples": _summary(names, [{"sample": name} for name in names], distances[:count]),
    }
    if held_out:
        groups["held_out"] = _group(whose, distances[count:])
    drawn = np.stack([facts.hu for facts in samples])
    diversity = sample_scores.diversity(drawn, float(np.mean(deviations)))
    results = {
        "scale": config.pyramid.scale,
        "size": drawn.shape[1:],
        "training_volumes": len(remembered),
        "samples": count,
        "seed": seed,
        "limit": volumes,
        "protocols": PROTOCOLS,
        "diversity": json_case(diversity),
        "results": groups,
    }
    shown |= {names[number]: facts.hu for number, facts in enumerate(samples[:SHOWN])}
    spacing_mm = trained_spacing_mm(config, system)
    planes = [three_planes(volume, spacing_mm) for volume in shown.values()]
    picture = picture_of_planes(planes, list(shown))
    return results, _table(results), functools.partial(_write, picture)


def _write(picture, path, results, below):
    """Writes the files of an Evaluation; the table has a row for each volume."""
    cases = [
        {"volume": name} | case
        for name, group in results["results"].items()
        for case in group["cases"]
    ]
    write_csv(f"{path}.csv", list(dict.fromkeys(itertools.chain(*cases))), cases, below)
    write_picture(f"{path}.png", picture, below)
    return [
        ("a row a volume", f"{path}.csv"),
        ("a training volume, its reconstruction and samples", f"{path}.png"),
        write_json(f"{path}.json", results, below),
    ]


def _wanted(dataset, split, limit):
    """Lists the numbers of the first `limit` examples of a split; 0 is all."""
    total = dataset.num_evaluation_examples(split)
    return np.arange(min(limit or total, total))


def _counted(progress, total):
    """Makes () -> None, which reports one more to progress at each call."""
    done = itertools.count(1)
    return lambda: progress and progress(next(done), total)


def _volumes(run, dataset, generator, split, wanted, told):
    """Yields (Example, real, reconstruction), [d, h, w] in [-1, 1]; without a generator real twice.

    Volumes follow one another, so that memory does not grow with their number.
    """
    config, system = run.config, run.system

    @jax.jit
    def images(generator, batch):
        z_rec, target = system.normalise(batch)
        return target, target if generator is None else generate(system, generator, z_rec)

    examples, counted = dataset.examples(split), 0
    for batch in dataset.eval_batches(split, indices=wanted):
        target, made = jax.device_get(images(generator, batch))
        for slices, *pair in zip(batch["index"], target, made, strict=True):
            if slices[0] < 0:  # padding
                continue
            real, reconstruction = (np.clip(_volume(config, x), -1, 1) for x in pair)
            yield examples[slices[0]], real, reconstruction
            counted += 1
            told()
    check_any_counted(counted)


def _volume(config, image):
    """Converts the networks' [*size, c] to [d, h, w]; in 2D, slices are channels."""
    return np.moveaxis(image, -1, 0) if config.pyramid.dimensions == 2 else image[..., 0]


def _describe(config, system, discriminator):
    """Makes the function from a volume [d, h, w] in [-1, 1] to its sample_scores.Facts."""

    @jax.jit
    def features(image):
        variables = {"params": discriminator.params, "batch_stats": discriminator.batch_stats}
        *_, hidden, _ = system.discriminator.apply(variables, None, image, train=False)
        return hidden

    def describe(volume):
        flat = config.pyramid.dimensions == 2
        image = np.moveaxis(volume, 0, -1) if flat else volume[..., None]
        hu = system.output(volume)
        return sample_scores.facts(hu, jax.device_get(features(image[None])))

    return describe


def _group(examples, scores):
    """Summarises scores of real volumes; a patient may have several."""
    cases = [
        {"patient": e.patient, "file_name": e.file_name, "slice_index": e.slice_index}
        for e in examples
    ]
    return _summary([example.patient for example in examples], cases, scores)


def _summary(patients, cases, scores):
    # The PSNR of equal volumes is infinite, which neither JSON nor a mean can hold.
    scores = [{k: v if np.isfinite(v) else np.nan for k, v in of.items()} for of in scores]
    return {
        "overall": over_cases(scores, patients),
        "cases": [case | json_case(of) for case, of in zip(cases, scores, strict=True)],
    }


def _table(results):
    groups = {name: group["overall"] for name, group in results["results"].items()}
    counts = f"{results['training_volumes']} volume(s), {results['samples']} samples"
    lines = [
        "memorisation is a measure of what was learned by heart, not of quality",
        table_of(counts, by_score(groups)),
    ]
    for name, value in results["diversity"].items():
        lines.append(f"{name:28}" + ("undefined" if value is None else f"{value:.4f}"))
    return "\n".join(lines)
