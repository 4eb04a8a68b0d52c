"""Writes the scores of synthetic CT: of a split, or of one volume and its reference."""

import numpy as np

from jax_pix2pix.evaluation import report, report_pictures
from jax_pix2pix.imaging.geometry import UNKNOWN
from jax_pix2pix.metrics import controls, dose, protocols, sct_scores
from jax_pix2pix.metrics.mask_scores import by_score, json_case, over_cases, table_of
from jax_pix2pix.safety import safe_files

GRID = (
    "all slices of the volume, on the voxels of the synthetic CT's file, which are the CT's, with "
    "their spacing, HU rounded to whole ones"
)
COLUMNS = {"mae": "MAE, HU", "psnr": "PSNR, dB", "ssim": "SSIM", "ms_ssim": "MS-SSIM"}


def page(name, images, volumes, spacing_mm, scores):
    """Makes a patient's part of the report.

    Args:
        name: of the patient.
        images: number of slices.
        volumes: axial source, CT, synthetic CT and body, each [d, h, w], as score_ct takes them;
            the source in any unit.
        spacing_mm: between slices, rows and columns; or None.
        scores: CTScores from score_ct.

    Returns:
        report.PatientPage.
    """
    source, ct, sct, mask = volumes
    dvh = None if scores.doses is None else report_pictures.dvh_picture(scores.doses)
    return report.PatientPage(
        name=name,
        images=images,
        scores=json_case(finite(scores)),
        does_not_tell=scores.does_not_tell,
        slices=report_pictures.slices_picture(source, ct, sct, mask, spacing_mm),
        dvh=dvh,
    )


def finite(scores):
    """Turns the infinite PSNR of equal volumes, which JSON and means cannot hold, into NaN."""
    return {name: value if np.isfinite(value) else np.nan for name, value in scores.items()}


def results(cases, pages, grid, baselines):
    """Makes the contents of the JSON.

    Args:
        cases: {model: [scores from score_ct]}, patients in the order of pages.
        pages: report.PatientPage of each patient.
        grid: text that says which voxels are scored.
        baselines: {model: text} of the models that are not networks.
    """
    names = [page.name for page in pages]
    of_controls = {
        name: [of_case.controls.get(name, _UNKNOWN) for of_case in cases["model"]]
        for name in controls.PROTOCOLS
    }
    return {
        "protocols": sct_scores.PROTOCOLS | {"grid": grid},
        "baselines": baselines,
        "results": {name: _over_patients(of_model, pages) for name, of_model in cases.items()},
        "controls": {
            name: {
                "overall": over_cases(of_control, names),
                "cases": [
                    {"patient": patient} | json_case(scores)
                    for patient, scores in zip(names, of_control, strict=True)
                ],
            }
            for name, of_control in of_controls.items()
        },
    }


_UNKNOWN = dict.fromkeys(dose.SCORES, np.nan)  # of a control that is left out


def _over_patients(cases, pages):
    """Averages a model's CTScores, and marks the scores that a control reaches too."""
    values = [finite(scores) for scores in cases]
    overall = over_cases(values, [page.name for page in pages])
    marked = controls.does_not_tell(values)
    for name in (*overall,):
        if name.endswith(controls.SUFFIX):
            score = overall[name.removesuffix(controls.SUFFIX)]
            score["best_control"] = overall.pop(name)["mean"]
            score["does_not_tell"] = name.removesuffix(controls.SUFFIX) in marked
    return {
        "overall": overall,
        "cases": [
            {"patient": page.name, "images": page.images}
            | json_case(of_case)
            | {"does_not_tell": " ".join(scores.does_not_tell)}
            for page, of_case, scores in zip(pages, values, cases, strict=True)
        ],
    }


def beside(results):
    """Puts the controls' means beside the models': {name: {metric: summary}}."""
    summaries = {name: of_model["overall"] for name, of_model in results["results"].items()}
    for name, of_control in results["controls"].items():
        if any(score["cases"] for score in of_control["overall"].values()):
            summaries[f"control: {name}"] = of_control["overall"]
    return summaries


def table(title, results):
    """Formats the means of `results`: all scores of models, then doses beside their controls."""
    rows = by_score(beside(results))
    doses = {name: row for name, row in rows.items() if name in dose.SCORES}
    others = {name: row for name, row in rows.items() if name not in dose.SCORES}
    tables = [table_of(title, others), table_of("doses, beside controls", doses)]
    return "\n".join([*tables, f"{controls.PROTOCOL}."])


def write(path, title, facts, results, pages, below=None):
    """Writes path.json; path.html, the report; path.csv, a row per patient and model; path.png.

    Args:
        path: without an ending.
        title, facts: of the report, see report.page.
        results: from `results`, with any further values for the JSON.
        pages: report.PatientPage of each patient.
        below: as for `safe_files.write`.

    Returns:
        [(what it is, path)].
    """
    written = [report.write_json(f"{path}.json", results, below), ("report", f"{path}.html")]
    texts = results["protocols"], results["baselines"]
    html = report.page(title, facts, beside(results), pages, *texts)
    safe_files.write(f"{path}.html", html, below)

    columns = ["model", *results["results"]["model"]["cases"][0]]
    rows = [
        {"model": name} | case
        for name, of_model in results["results"].items()
        for case in of_model["cases"]
    ]
    rows += [
        {"model": f"control: {name}"} | dict.fromkeys(columns[1:]) | case
        for name, of_control in results["controls"].items()
        for case in of_control["cases"]
    ]
    report.write_csv(f"{path}.csv", columns, rows, below)
    written.append(("a row a patient and model", f"{path}.csv"))

    ranked = sorted(pages, key=lambda patient: patient.scores["synthrad2023.mae"])
    safe_files.write(f"{path}.png", ranked[len(ranked) // 2].slices, below)
    return [*written, ("the patient of the median MAE", f"{path}.png")]


def table_of_volume(scores):
    """Formats CTScores: a row for each protocol, each one's text, and doses beside controls."""
    lines = [f"{'':20}" + "".join(f"{title:>12}" for title in COLUMNS.values())]
    for name in protocols.PROTOCOLS:
        found = [scores.get(f"{name}.{key}") for key in COLUMNS]
        cells = (f"{'-':>12}" if value is None else f"{value:12.4f}" for value in found)
        lines.append(f"{name:20}" + "".join(cells))
    for name, protocol in protocols.PROTOCOLS.items():
        lines.append(f"{name}, version {protocol.version}: {protocol.text}")
    if scores.doses is None:
        return "\n".join([*lines, "doses: undefined without a spacing or in a single slice"])
    columns = {"synthetic CT": scores} | scores.controls
    lines.append(f"{'doses, beside controls':24}" + "".join(f"{name:>20}" for name in columns))
    for name in dose.SCORES:
        cells = "".join(f"{of_column[name]:20.4f}" for of_column in columns.values())
        mark = f"  {controls.WORDS}" if name in scores.does_not_tell else ""
        lines.append(f"{name:24}{cells}{mark}")
    return "\n".join([*lines, f"{controls.PROTOCOL}."])


def report_volume(run, prediction, source, reference, path, **options):
    """Scores one synthetic CT against its real one and writes the files of `write`.

    Args:
        run: Run that made it.
        prediction: Prediction of `run.predict`.
        source: what it was made from, in words.
        reference: path of the real CT, on the same voxels.
        path: of the files, without an ending.
        options: spacing_mm, axes, geometry and series, of the reference.

    Returns:
        (scores of `sct_scores.score_ct`, [(what it is, path)]).

    Raises:
        DataError: the reference cannot be read or is on other voxels.
    """
    ct = run.reference(prediction, reference, **options)
    scores = run.score_volume(prediction, ct)
    seen = prediction.source, ct, prediction.values, prediction.body > 0
    about = {
        "workdir": run.workdir,
        "checkpoint": run.checkpoint,
        "step": run.step,
        "input": str(source),
        "reference": str(reference),
        "mask": prediction.body_from,
        "spacing_mm": prediction.spacing_mm or UNKNOWN,
        "notes": "; ".join(prediction.notes) or "none",
    }
    patient = page(about["input"], len(ct), seen, prediction.spacing_mm, scores)
    found = about | results({"model": [scores]}, [patient], GRID, {})
    if prediction.spacing_mm is None:
        found["protocols"]["grid"] = f"{GRID}; {UNKNOWN}"
    title = f"Synthetic CT of {patient.name}"
    written = write(path, title, {"system": run.config.system} | about, found, [patient])
    return scores, written
