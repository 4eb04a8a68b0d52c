"""Writes the files of an evaluation: JSON of all values, and for synthetic CT one HTML page."""

import base64
import json
import math
from pathlib import Path
from typing import NamedTuple

from jax_pix2pix.errors import DataError
from jax_pix2pix.metrics.controls import WORDS
from jax_pix2pix.metrics.mask_scores import cell
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.shown import shown
from jax_pix2pix.safety.tables import csv_text

UNITS = {  # by the end of a score's name
    **{"mae": "HU", "psnr": "dB"},
    **dict.fromkeys(("hd95_mm", "mean_mm", "p95_mm"), "mm"),
}
DOSE_UNITS = {"gamma": "%", "delta": "% of the prescription"}  # by its beginning
HEADLINE = (
    *("synthrad2023.mae", "synthrad2023.psnr", "synthrad2023.ssim", "synthrad2025.ms_ssim"),
    *("bone.dice", "range.mean_mm", "range.p95_mm", "gamma_local_1_1", "delta_off_centre"),
)  # shown for each patient; the rest is in the table beside the report


def write_json(path, results, below=None):
    """Writes results as JSON. -> (what it is, path).

    below: as for `safe_files.write`, here as in all that writes.

    Raises:
        DataError: a result is NaN or infinite, which JSON does not have.
    """
    try:
        text = json.dumps(results, indent=2, allow_nan=False)
    except ValueError:
        name, value = next(_not_finite(results))
        raise DataError(
            f"{path} is not written, since {name} is {value}: the run made no numbers; use "
            "another checkpoint"
        ) from None
    safe_files.write(path, text, below)
    return "protocols and all values", path


def _not_finite(results, name=""):
    """Yields (dotted name, value) of what is NaN or infinite."""
    if isinstance(results, float) and not math.isfinite(results):
        yield name, results
    elif isinstance(results, dict | list | tuple):
        named = results.items() if isinstance(results, dict) else enumerate(results)
        for key, value in named:
            yield from _not_finite(value, f"{name}.{key}" if name else str(key))


def write_csv(path, columns, rows, below=None):
    """Writes rows, {column: value}, as a table with a first line of column names."""
    safe_files.write(path, csv_text(columns, rows), below)


def write_picture(path, picture, below=None):
    """Writes a PIL image as PNG."""
    with safe_files.writing(path, below) as file:
        picture.save(file, "png")


def writer(picture):
    """Makes the `write` of an Evaluation that has results and one picture."""

    def write(path, results, below):
        written = [write_json(f"{path}.json", results, below)]
        write_picture(f"{path}.png", picture, below)
        return [*written, ("best, median and worst", f"{path}.png")]

    return write


class PatientPage(NamedTuple):
    """Holds what the page shows of a patient.

    scores: {metric: float or None} of the model, which include HEADLINE.
    does_not_tell: the metrics that a control reaches too.
    slices, dvh: PNG, bytes; dvh is None where there is no dose.
    """

    name: str
    images: int
    scores: dict[str, float | None]
    does_not_tell: list[str]
    slices: bytes
    dvh: bytes | None


def page(title, facts, summaries, patients, protocols, baselines):
    """Renders the report as HTML.

    Args:
        title: of the page.
        facts: {name: value} of the run and the split.
        summaries: {model: {metric: summary from over_cases}}; the first has all metrics.
        patients: list of PatientPage.
        protocols, baselines: {name: text}.
    """
    metrics = list(next(iter(summaries.values())))
    return render(
        "report.html",
        title=title,
        headline=HEADLINE,
        words=WORDS,
        facts=facts,
        metrics=metrics,
        summaries=summaries,
        patients=patients,
        protocols=protocols,
        baselines=baselines,
    )


def render(template, **values):
    """Renders a template of this folder. -> HTML of one page that loads nothing."""
    import jinja2  # imported late: few commands write reports

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names of patients are file names
        finalize=lambda value: shown(value) if isinstance(value, str) else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "summary": _summary, "unit": unit, "inline": _inline}
    return environment.get_template(template).render(values)


def unit(metric):
    """Finds the unit of a score by its flat name; "" where it has none."""
    return UNITS.get(metric.split(".")[-1]) or DOSE_UNITS.get(metric.split("_")[0], "")


def _number(value):
    return "undefined" if value is None else f"{value:.4g}"


def _summary(score):
    return cell(score, ".4g", ".4g")


def _inline(png):
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
