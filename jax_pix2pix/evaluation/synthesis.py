"""What `launch.evaluate` does with a system that makes CT of MR or of cone beam CT."""

import numpy as np
import tqdm

from input_pipeline import pipeline, prepared
from jax_pix2pix.imaging.planes import PLANES, put_together
from jax_pix2pix.evaluation import ct_baselines
from jax_pix2pix.metrics import sct_scores
from jax_pix2pix.metrics.mask_scores import print_table
from jax_pix2pix.evaluation.volumes import of_slices, patient_volumes
from jax_pix2pix.evaluation import synthesis_report

VOLUMES = ("source", "ct", "sct", "mask")
GRID = (
    "a patient's prepared {plane} slices with some body, {side} x {side}, stacked, HU rounded to "
    "whole ones; distances and dose are left out where the spacing is unknown or slices are "
    "missing between these; on the source's own voxels: launch.predict --reference"
)
IN_3D = (
    "; the network saw runs of {depth} slices at this size that do not overlap, but for the last "
    "one; launch.predict blends patches that overlap by half"
)


def evaluate(config, system, generator, split):
    """Prints the scores of the model and of baselines.

    -> (results for JSON, a report.PatientPage a patient).
    """
    data, examples = config.data, prepared.examples(config.data, split)
    patients = [example.patient for example in examples]
    training = (
        of_slices(batch, ("source", "target", "mask"))[1:] for batch in _batches(data, "train")
    )
    baselines = ct_baselines.fit_baselines(
        ((source, hu, mask > 0) for source, hu, mask in training), data.source_range
    )

    cases = {name: [] for name in ("model", *baselines)}
    pages = []
    found = patient_volumes(system, generator, data.window_hu, _batches(data, split), patients)
    for volumes in tqdm.tqdm(found, total=len(set(patients)), unit="patient"):
        of_patient = [examples[index] for index in volumes.indices]
        spacing_mm = spacing_of(data, of_patient)
        predictions = {"model": volumes.sct} | {
            name: baseline(volumes.source, volumes.mask) for name, baseline in baselines.items()
        }
        # From here on axial: a dose and a filter have directions.
        volumes, predictions = (
            _axial(volumes, data.plane),
            {name: put_together(sct, data.plane) for name, sct in predictions.items()},
        )
        for name, sct in predictions.items():
            scores = sct_scores.score_patient(volumes.ct, sct, volumes.mask, spacing_mm)
            cases[name].append(scores)
        shown = [getattr(volumes, name) for name in VOLUMES]
        name, images = of_patient[0].patient, len(of_patient)
        pages.append(synthesis_report.page(name, images, shown, spacing_mm, cases["model"][-1]))

    grid = GRID.format(plane=data.plane, side=data.image_size)
    if data.depth:
        grid += IN_3D.format(depth=data.depth)
    results = synthesis_report.results(cases, pages, grid, ct_baselines.PROTOCOLS)
    summaries = {name: of_model["overall"] for name, of_model in results["results"].items()}
    # More scores than fit side by side: a row each.
    by_score = {
        metric: {name: summary[metric] for name, summary in summaries.items()}
        for metric in summaries["model"]
    }
    print_table(f"{split}, {len(pages)} patients", by_score)
    return results, pages


def write(path, config, results, pages):
    """Writes what synthesis_report.write does.

    results: of `evaluate`, with the header that `launch.evaluate` adds.
    pages: of `evaluate`.
    """
    facts = {
        "system": config.system,
        "split": results["split"],
        "checkpoint": f"{results['checkpoint']}, step {results['step']}",
        "slices": sum(patient.images for patient in pages),
    }
    title = f"Synthetic CT, {results['split']} split"
    synthesis_report.write(path, title, facts, results, pages)


def _batches(data, split):
    """Evaluation batches of data with the body as "mask"."""
    of_mask = data.copy_and_resolve_references()
    of_mask.target, of_mask.target_type = "mask", "uint8"
    both = (pipeline.eval_batches(of_both, split) for of_both in (data, of_mask))
    for batch, masks in zip(*both, strict=True):
        yield batch | {"mask": masks["target"]}


def _axial(volumes, plane):
    turned = {name: put_together(getattr(volumes, name), plane) for name in VOLUMES}
    return volumes._replace(**turned)


def spacing_of(data, examples):
    """Of a patient's axial volume as it is evaluated; None where unknown or slices are missing."""
    places = [example.slice_index for example in examples]
    spacing_mm = examples[0].spacing_mm
    if min(spacing_mm) <= 0 or (np.diff(places) != 1).any():
        return None
    factor = data.stored_size / data.image_size
    of_planes = spacing_mm[0], spacing_mm[1] * factor, spacing_mm[2] * factor
    return tuple(of_planes[axis] for axis in np.argsort(PLANES[data.plane]))
