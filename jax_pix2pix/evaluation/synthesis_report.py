"""What is written on the scores of synthetic CT, by `launch.evaluate` and `launch.predict`."""

import csv

import numpy as np

from jax_pix2pix.evaluation import report, report_pictures
from jax_pix2pix.metrics import sct_scores
from jax_pix2pix.metrics.dose import dosimetry
from jax_pix2pix.metrics.mask_scores import json_case, over_cases
from jax_pix2pix.evaluation import json_results
from launch.process.remote_workdir import as_given


def page(name, images, volumes, spacing_mm, scores):
    """A patient in the report.

    Args:
        name: of the patient.
        images: number of slices.
        volumes: axial source, CT, synthetic CT and body, each [d, h, w], as score_patient has them;
            the source in any unit.
        spacing_mm: between slices, rows and columns; or None.
        scores: of score_patient.

    Returns:
        report.PatientPage.
    """
    source, ct, sct, mask = volumes
    dvh = None
    if np.isfinite(scores["delta_dmean"]):
        dvh = report_pictures.dvh_picture(dosimetry(ct, sct, mask, spacing_mm))
    return report.PatientPage(
        name=name,
        images=images,
        scores=json_case(finite(scores)),
        slices=report_pictures.slices_picture(source, ct, sct, mask, spacing_mm),
        dvh=dvh,
    )


def finite(scores):
    """Neither JSON nor a mean has a place for the PSNR of equal volumes, which is infinite: NaN."""
    return {name: value if np.isfinite(value) else np.nan for name, value in scores.items()}


def results(cases, pages, grid, baselines):
    """What the JSON holds.

    Args:
        cases: {model: [scores of score_patient]}, a patient after the other as in pages.
        pages: report.PatientPage of each patient.
        grid: text on which voxels are scored.
        baselines: {model: text} of those that are no network.
    """
    names = [page.name for page in pages]
    cases = {name: [finite(scores) for scores in of_model] for name, of_model in cases.items()}
    return {
        "protocols": sct_scores.PROTOCOLS | {"grid": grid},
        "baselines": baselines,
        "results": {
            name: {
                "overall": over_cases(of_model, names),
                "cases": [
                    {"patient": page.name, "images": page.images} | json_case(scores)
                    for page, scores in zip(pages, of_model, strict=True)
                ],
            }
            for name, of_model in cases.items()
        },
    }


def write(path, title, facts, results, pages):
    """Writes path.json; path.html, the report; path.csv, a row a patient and model; path.png.

    Args:
        path: without an ending.
        title, facts: of the report, see report.page.
        results: of `results`, with what else the JSON is to hold.
        pages: report.PatientPage of each patient.
    """
    json_results.write(f"{path}.json", results)
    summaries = {name: of_model["overall"] for name, of_model in results["results"].items()}
    texts = results["protocols"], results["baselines"]
    with open(f"{path}.html", "w", encoding="utf-8") as file:
        file.write(report.page(title, facts, summaries, pages, *texts))
    print(f"report: {as_given(path)}.html")

    with open(f"{path}.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["model", *results["results"]["model"]["cases"][0]])
        writer.writeheader()
        for name, of_model in results["results"].items():
            writer.writerows({"model": name} | case for case in of_model["cases"])
    print(f"a row a patient and model: {as_given(path)}.csv")

    ranked = sorted(pages, key=lambda patient: patient.scores["synthrad2023.mae"])
    with open(f"{path}.png", "wb") as file:
        file.write(ranked[len(ranked) // 2].slices)
    print(f"the patient of the median MAE: {as_given(path)}.png")
