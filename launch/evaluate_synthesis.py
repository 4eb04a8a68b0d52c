"""What `launch.evaluate` does with a system that makes CT of MR or of cone beam CT."""

import csv

import numpy as np
import tqdm

from input_pipeline import pipeline, prepared
from input_pipeline.planes import PLANES, put_together
from jax_pix2pix.evaluation import ct_baselines, report, report_pictures, sct_scores
from jax_pix2pix.evaluation.dose import dosimetry
from jax_pix2pix.evaluation.mask_scores import json_case, over_cases, print_table
from jax_pix2pix.evaluation.volumes import of_slices, patient_volumes

VOLUMES = ("source", "ct", "sct", "mask")
GRID = (
    "a patient's prepared {plane} slices with some body, {side} x {side}, stacked, HU rounded to "
    "whole ones; distances and dose are left out where the spacing is unknown or slices are "
    "missing between these; on the source's own voxels: launch.predict --reference"
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
            # Neither JSON nor a mean has a place for the PSNR of equal volumes, which is infinite.
            cases[name].append({k: v if np.isfinite(v) else np.nan for k, v in scores.items()})
        pages.append(_page(of_patient, volumes, spacing_mm, cases["model"][-1]))

    names = [page.name for page in pages]
    summaries = {name: over_cases(of_model, names) for name, of_model in cases.items()}
    results = {
        "protocols": sct_scores.PROTOCOLS
        | {"grid": GRID.format(plane=data.plane, side=data.image_size)},
        "baselines": ct_baselines.PROTOCOLS,
        "results": {
            name: {
                "overall": summaries[name],
                "cases": [
                    {"patient": page.name, "images": page.images} | json_case(scores)
                    for page, scores in zip(pages, of_model, strict=True)
                ],
            }
            for name, of_model in cases.items()
        },
    }
    # More scores than fit side by side: a row each.
    by_score = {
        metric: {name: summary[metric] for name, summary in summaries.items()}
        for metric in summaries["model"]
    }
    print_table(f"{split}, {len(pages)} patients", by_score)
    return results, pages


def write(path, config, results, pages):
    """Writes path.html, the report; path.csv, a row a patient and model; path.png, a patient.

    results: of `evaluate`, with the header that `launch.evaluate` adds.
    pages: of `evaluate`.
    """
    facts = {
        "system": config.system,
        "split": results["split"],
        "checkpoint": f"{results['checkpoint']}, step {results['step']}",
        "slices": sum(patient.images for patient in pages),
    }
    summaries = {name: of_model["overall"] for name, of_model in results["results"].items()}
    title = f"Synthetic CT, {results['split']} split"
    texts = results["protocols"], results["baselines"]
    with open(f"{path}.html", "w", encoding="utf-8") as file:
        file.write(report.page(title, facts, summaries, pages, *texts))
    print(f"report: {path}.html")

    with open(f"{path}.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["model", *results["results"]["model"]["cases"][0]])
        writer.writeheader()
        for name, of_model in results["results"].items():
            writer.writerows({"model": name} | case for case in of_model["cases"])
    print(f"a row a patient and model: {path}.csv")

    ranked = sorted(pages, key=lambda patient: patient.scores["synthrad2023.mae"])
    with open(f"{path}.png", "wb") as file:
        file.write(ranked[len(ranked) // 2].slices)
    print(f"the patient of the median MAE: {path}.png")


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


def _page(examples, volumes, spacing_mm, scores):
    dvh = None
    if np.isfinite(scores["delta_dmean"]):
        doses = dosimetry(volumes.ct, volumes.sct, volumes.mask, spacing_mm)
        dvh = report_pictures.dvh_picture(doses)
    return report.PatientPage(
        name=examples[0].patient,
        images=len(examples),
        scores=json_case(scores),
        slices=report_pictures.slices_picture(
            volumes.source, volumes.ct, volumes.sct, volumes.mask, spacing_mm
        ),
        dvh=dvh,
    )
