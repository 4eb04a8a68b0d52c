"""What `launch.evaluate` does with a pyramid: what it remembers, and what its samples are like."""

import csv
import itertools
import os

import jax
import numpy as np
import tqdm

from input_pipeline import pipeline, prepared
from jax_pix2pix.adversarial import generate
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.metrics import bootstrap, sample_scores
from jax_pix2pix.metrics.mask_scores import json_case, over_cases, print_table
from jax_pix2pix.evaluation.slices import check_any_counted
from jax_pix2pix.intensity import to_stored
from jax_pix2pix.pyramid import last_scale, scale_directory
from jax_pix2pix.inference.sampling import sample
from jax_pix2pix.runs.workdir import load_state
from jax_pix2pix.evaluation import json_results
from jax_pix2pix.inference.samples import trained_spacing_mm
from launch.process.remote_workdir import as_given
from jax_pix2pix.inference.sample_pictures import picture_of_planes, three_planes

COUNT = 16  # samples
SHOWN = 4  # of them in the picture
PROTOCOLS = sample_scores.PROTOCOLS | {
    "held_out": "volumes of the test split whose patients are not in training, at the same size: "
    "how far other patients are",
    "interval_95": f"{bootstrap.PROTOCOL}; each sample counts as a patient",
}


def evaluate(config, system, state, count, seed, volumes=0):
    """Prints the scores of reconstructions, of samples and of held-out volumes.

    Args:
        config, system, state: of a scale.
        count: samples to draw, of keys that follow from seed.
        volumes: of training and held out, the first so many examples of each; 0 is all.

    Returns:
        (results for JSON, picture).

    Raises:
        ConfigError: count or volumes do not fit.
    """
    if count < 2:
        raise ConfigError(f"--count={count}: use 2 or more, as diversity is between samples")
    if volumes < 0:
        raise ConfigError(f"--volumes={volumes}: use 1 or more, or 0 for all")
    describe = _describe(config, system, state.discriminator)
    key = jax.random.key(seed)
    samples = [
        describe(sample(config, system, state.generator, jax.random.fold_in(key, number)))
        for number in tqdm.trange(count, desc="samples", unit="volume")
    ]
    patients = {example.patient for example in prepared.examples(config.data, "train")}
    held_out, whose = [], []
    for example, real, _ in _volumes(config, system, None, "test", volumes):
        if example.patient not in patients:
            held_out.append(describe(real))
            whose.append(example)

    remembered, deviations, pairs, shown = [], [], [[] for _ in samples + held_out], {}
    for example, real, made in _volumes(config, system, state.generator, "train", volumes):
        facts = describe(real)
        deviations.append(facts.hu.std(dtype=np.float64))
        remembered.append((example, sample_scores.memorisation((made + 1) / 2, (real + 1) / 2)))
        for of_pairs, other in zip(pairs, samples + held_out, strict=True):
            of_pairs.append(sample_scores.distances(other, facts))
        if not shown:
            of_made = to_stored(made, config.data.source_range)
            shown = {"training volume": facts.hu, "its reconstruction": of_made}

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
    _print(results)
    shown |= {names[number]: facts.hu for number, facts in enumerate(samples[:SHOWN])}
    spacing_mm = trained_spacing_mm(config, system)
    planes = [three_planes(volume, spacing_mm) for volume in shown.values()]
    return results, picture_of_planes(planes, list(shown))


def evaluate_run(workdir, checkpoint, count=COUNT, seed=0, volumes=0):
    """Evaluates the last scale of a run, or a scale by its own directory.

    Writes evaluation/train.json there, train.csv with a row a volume, and train.png.

    Returns:
        What is in train.json.
    """
    directory = workdir
    if os.path.isdir(scale_directory(workdir, 0)):
        directory, _ = last_scale(workdir)
    config, system, state, step = load_state(directory, checkpoint)
    header = {"split": "train", "checkpoint": checkpoint, "step": step}
    results, picture = evaluate(config, system, state, count, seed, volumes)
    results = header | results

    folder = os.path.join(workdir, "evaluation")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "train")
    cases = [
        {"volume": name} | case
        for name, group in results["results"].items()
        for case in group["cases"]
    ]
    with open(f"{path}.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(itertools.chain(*cases))))
        writer.writeheader()
        writer.writerows(cases)
    print(f"a row a volume: {as_given(path)}.csv")
    picture.save(f"{path}.png")
    print(f"a training volume, its reconstruction and samples: {as_given(path)}.png")
    json_results.write(f"{path}.json", results)
    return results


def _volumes(config, system, generator, split, limit):
    """Yields (Example, real, reconstruction), [d, h, w] in [-1, 1]; without a generator real twice.

    One after the other, so that memory does not grow with their number.
    """

    @jax.jit
    def images(generator, batch):
        z_rec, target = system.normalise(batch)
        return target, target if generator is None else generate(system, generator, z_rec)

    examples = prepared.examples(config.data, split)
    total = pipeline.num_evaluation_examples(config.data, split)
    wanted = np.arange(min(limit or total, total))
    with tqdm.tqdm(total=len(wanted), desc=split, unit="volume") as progress:
        for batch in pipeline.eval_batches(config.data, split, indices=wanted):
            target, made = jax.device_get(images(generator, batch))
            for slices, *pair in zip(batch["index"], target, made, strict=True):
                if slices[0] < 0:  # padding
                    continue
                real, reconstruction = (np.clip(_volume(config, x), -1, 1) for x in pair)
                yield examples[slices[0]], real, reconstruction
                progress.update()
    check_any_counted(progress.n)


def _volume(config, image):
    """[*size, c] as the networks see it -> [d, h, w]: in 2D, slices are channels."""
    return np.moveaxis(image, -1, 0) if config.pyramid.dimensions == 2 else image[..., 0]


def _describe(config, system, discriminator):
    """-> a function from a volume [d, h, w] in [-1, 1] to its sample_scores.Facts."""

    @jax.jit
    def features(image):
        variables = {"params": discriminator.params, "batch_stats": discriminator.batch_stats}
        *_, hidden, _ = system.discriminator.apply(variables, None, image, train=False)
        return hidden

    def describe(volume):
        flat = config.pyramid.dimensions == 2
        image = np.moveaxis(volume, 0, -1) if flat else volume[..., None]
        hu = to_stored(volume, config.data.source_range)
        return sample_scores.facts(hu, jax.device_get(features(image[None])))

    return describe


def _group(examples, scores):
    """The summary of scores of real volumes, of which a patient may have several."""
    cases = [
        {"patient": e.patient, "file_name": e.file_name, "slice_index": e.slice_index}
        for e in examples
    ]
    return _summary([example.patient for example in examples], cases, scores)


def _summary(patients, cases, scores):
    # Neither JSON nor a mean has a place for the PSNR of equal volumes, which is infinite.
    scores = [{k: v if np.isfinite(v) else np.nan for k, v in of.items()} for of in scores]
    return {
        "overall": over_cases(scores, patients),
        "cases": [case | json_case(of) for case, of in zip(cases, scores, strict=True)],
    }


def _print(results):
    print("memorisation is a measure of what was learned by heart, not of quality")
    groups = {name: group["overall"] for name, group in results["results"].items()}
    # More scores than fit side by side: a row each.
    by_score = {}
    for name, summary in groups.items():
        for metric, score in summary.items():
            by_score.setdefault(metric, {})[name] = score
    counts = f"{results['training_volumes']} volume(s), {results['samples']} samples"
    print_table(counts, by_score)
    for name, value in results["diversity"].items():
        print(f"{name:28}" + ("undefined" if value is None else f"{value:.4f}"))
