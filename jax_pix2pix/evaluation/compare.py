"""Scores masks of any origin against references, each pair on its own grid."""

import os
from typing import NamedTuple

import numpy as np

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.evaluation.mask_pairs import IMAGES, VOLUMES, find_pairs, read_pair
from jax_pix2pix.imaging.geometry import NOTHING, UNKNOWN, given
from jax_pix2pix.imaging.label_values import SOFT_WHITE, foreground, numbered
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.metrics import bootstrap, overlap, surface_distance
from jax_pix2pix.metrics.mask_scores import PENALISED, json_case, over_cases, score_masks
from jax_pix2pix.safety.paths import expanded
from jax_pix2pix.safety.patterns import compiled
from jax_pix2pix.safety.shown import shown


class Region(NamedTuple):
    labels: str  # in words
    members: tuple  # the values of a mask that belong to it; () for the foreground


def compare(
    predictions,
    references,
    regions=None,
    spacing_mm=None,
    patient_pattern=None,
    progress=None,
    axes=None,
    geometry=None,
):
    """Scores each pair of masks in two folders, and averages over cases.

    Args:
        predictions, references: folders of masks of equal names, see `mask_pairs.find_pairs`.
            A line for each counts the files that were used and passed over.
        regions: names and labels, such as "liver:1+2,tumour:2"; None is the foreground, see
            `label_values.foreground`, which cuts soft edges of images alone.
        spacing_mm: (rows, columns) of images, without which distances are in pixels; or (slices,
            rows, columns) of volumes that do not state theirs, without which they have none.
        patient_pattern: regular expression that matches a case's name; its group 1 is the patient.
            Without it each case is a patient.
        progress: (done, total) -> None.
        axes, geometry: of volumes, as for `imaging.geometry.given`.

    Returns:
        The contents of `launch.compare`'s JSON file: every value, with its protocol.

    Raises:
        ConfigError: an option does not fit.
        DataError: a mask cannot be read, has no partner, is on another grid, or its values are not
            those of the regions.
    """
    predictions, references = expanded(predictions), expanded(references)
    kind, pairs, accounts = find_pairs(predictions, references)
    wanted = _regions(regions)
    user = NOTHING
    if kind == VOLUMES:
        unit, image_spacing = "mm", None
        user = given(spacing_mm, axes, geometry)
    else:
        unit, image_spacing = _image_spacing(spacing_mm)
        for name, value in (("axes", axes), ("geometry", geometry)):
            if value:
                raise ConfigError(f"{name} is of volumes, and these are images: leave it out")
    patients = _patients(patient_pattern, [pair.case for pair in pairs])

    scores, unknown = {name: [] for name in wanted}, []
    for done, pair in enumerate(pairs, 1):
        *labels, spacing = read_pair(kind, pair, user)
        if kind == VOLUMES and spacing is None:
            unknown.append(pair.case)
        predicted, present = (
            _masks(values, path, wanted, soft_edges=kind == IMAGES)
            for values, path in zip(labels, pair[1:], strict=True)
        )
        for name, one, other in zip(wanted, predicted, present, strict=True):
            scores[name].append(_scores(one, other, spacing or image_spacing, unit))
        if progress:
            progress(done, len(pairs))

    for account in accounts:
        messages.info(account.line())
    texts = surface_distance.PROTOCOLS.items()
    distances = {
        _in_unit(name, unit): text.replace(" in mm", f" in {unit}") for name, text in texts
    }
    return {
        "predictions": os.path.abspath(predictions),
        "references": os.path.abspath(references),
        "cases": f"{kind}, each scored as a whole",
        "files": [[account.folder, *row] for account in accounts for row in account.rows()],
        "regions": {name: region.labels for name, region in wanted.items()},
        "protocols": {
            **overlap.PROTOCOLS,
            **distances,
            "penalised": PENALISED,
            "interval_95": bootstrap.PROTOCOL,
        },
        "spacing_unknown": unknown,
        "results": {
            name: {
                "overall": over_cases(rows, patients),
                "by_case": {
                    pair.case: {"patient": patient} | json_case(row)
                    for pair, patient, row in zip(pairs, patients, rows, strict=True)
                },
            }
            for name, rows in scores.items()
        },
    }


def _masks(labels, path, regions, soft_edges):
    """Finds the mask of each region in the labels of a file. -> [bool array]."""
    members = {name: region.members for name, region in regions.items()}
    if not all(members.values()):
        return [foreground(labels, path, soft_edges)]
    if labels.max() >= SOFT_WHITE:  # there may be labels of no region, but not 0 and 255 for them
        labels = numbered(labels, path, members, soft_edges)
    return [np.isin(labels, of) for of in members.values()]


def _regions(text):
    """Parses text such as liver:1+2,tumour:2 into {name: Region}."""
    if text is None:
        return {"foreground": Region("above 0, or above 127 where edges are soft", ())}
    regions = {}
    for part in text.split(","):
        name, _, labels = part.partition(":")
        numbers = [int(label) if label.isdecimal() else -1 for label in labels.split("+")]
        if not name or name in regions or min(numbers) < 0 or max(numbers) > 255:
            raise ConfigError(
                f"regions={text}: {part!r} is not a new name and labels up to 255, as in "
                "liver:1+2,tumour:2"
            )
        regions[name] = Region(labels, tuple(numbers))
    return regions


def _image_spacing(text):
    """Finds the unit of an image's distances, and the spacing in it."""
    if text is None:
        return "pixels", (1.0, 1.0)
    shown = text if isinstance(text, str) else ",".join(map(str, text))
    try:
        rows, columns = map(float, shown.split(","))
        if not (0 < rows < np.inf and 0 < columns < np.inf):
            raise ValueError
    except ValueError:
        raise ConfigError(f"spacing_mm={shown}: use two positive numbers, as in 0.2,0.2") from None
    return "mm", (rows, columns)


def _patients(pattern, cases):
    """The patient of each case."""
    if pattern is None:
        return cases
    try:
        find = compiled(pattern).match
    except ValueError as error:
        raise ConfigError(f"patient_pattern={pattern:.200}: {error}, as in ([^_]+)") from None
    patients = []
    for case in cases:
        match = find(case)
        if not (match and match[1]):
            raise ConfigError(f"patient_pattern={pattern:.200} finds no patient in case {case}")
        patients.append(match[1])
    return patients


def _scores(prediction, reference, spacing, unit):
    """Scores one case: {metric: float}, with distances named by their unit."""
    scores = score_masks(prediction, reference, spacing)
    return {_in_unit(name, unit): score for name, score in scores.items()}


def _in_unit(name, unit):
    return name.replace("_mm", f"_{unit}")


def table(results):
    """Formats the results of `compare`: a row for each case, and means with intervals."""
    lines = []
    for region, part in results["results"].items():
        overall = part["overall"]
        lines.append(f"{shown(region):24}" + "".join(f"{metric:>13}" for metric in overall))
        for case, scores in part["by_case"].items():
            lines.append(_row(f"  {case}", [scores.get(metric) for metric in overall]))
        lines.append(_row("mean", [summary["mean"] for summary in overall.values()]))
        for end, label in enumerate(("95 % interval from", "95 % interval to")):
            ends = [summary["interval_95"] for summary in overall.values()]
            lines.append(_row(label, [interval and interval[end] for interval in ends]))
        lines.append(_counts("cases where defined", "cases", part))
        penalised = [summary.get("with_penalty") for summary in overall.values()]
        lines.append(_row("mean with penalty", penalised))
        lines.append(_counts("cases with penalty", "cases_with_penalty", part))
    if unknown := results["spacing_unknown"]:
        lines.append(
            f"{UNKNOWN} of {shown(', '.join(unknown))}; --spacing_mm=SLICES,ROWS,COLUMNS settles it"
        )
    return "\n".join(lines)


def _counts(label, name, part):
    """Formats so many of all cases, by metric."""
    total = len(part["by_case"])
    counts = (summary.get(name) for summary in part["overall"].values())
    cells = ("-" if count is None else f"{count} of {total}" for count in counts)
    return f"{label:24}" + "".join(f"{cell:>13}" for cell in cells)


def _row(label, values):
    cells = [f"{'-':>13}" if value is None else f"{value:13.4f}" for value in values]
    return f"{shown(label):24}" + "".join(cells)
