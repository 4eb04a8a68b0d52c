"""Scores masks of any origin: python -m launch.compare --predictions=DIR --references=DIR"""

import json
import os
import re
from typing import NamedTuple

import numpy as np
import tqdm
from absl import flags

from jax_pix2pix.evaluation.mask_pairs import VOLUMES, find_pairs, read_pair
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.metrics import bootstrap, overlap, surface_distance
from jax_pix2pix.metrics.mask_scores import case_scores, json_case, over_cases
from launch.process import command

_PREDICTIONS = flags.DEFINE_string(
    "predictions", None, "folder of masks: all .nii or .nii.gz, or all .png"
)
_REFERENCES = flags.DEFINE_string("references", None, "folder with a mask for each prediction")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the scores and their protocols")
_REGIONS = flags.DEFINE_string(
    "regions",
    None,
    "names and labels, e.g. liver:1+2,tumour:2; without it, all that is above 0 in a volume and "
    "above 127 in an image",
)
_SPACING_MM = flags.DEFINE_string(
    "spacing_mm",
    None,
    "of an image's rows and columns, e.g. 0.2,0.2; without it, distances are in pixels",
)
_PATIENT_PATTERN = flags.DEFINE_string(
    "patient_pattern",
    None,
    "regular expression that matches a case's name, group 1 being the patient, e.g. ([^_]+); "
    "without it, each case is a patient",
)
flags.mark_flags_as_required(["predictions", "references"])


class Region(NamedTuple):
    labels: str  # in words
    holds: np.ndarray  # bool [256]: which values of a mask belong to it


def main():
    compare(_PREDICTIONS.value, _REFERENCES.value, _OUTPUT.value)


def compare(predictions, references, output):
    """Prints the scores of each case and their means; writes them to output if it is not None."""
    kind, pairs = find_pairs(predictions, references)
    regions = _regions(_REGIONS.value, kind)
    unit, image_spacing = _image_spacing(_SPACING_MM.value, kind)
    patients = [_patient(_PATIENT_PATTERN.value, pair.case) for pair in pairs]
    if output:
        os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)

    scores = {name: [] for name in regions}
    for pair in tqdm.tqdm(pairs, unit="case"):
        prediction, reference, spacing_mm = read_pair(kind, pair)
        for name, region in regions.items():
            masks = region.holds[prediction], region.holds[reference]
            scores[name].append(_scores(*masks, spacing_mm or image_spacing, unit))

    texts = surface_distance.PROTOCOLS.items()
    distances = {
        _in_unit(name, unit): text.replace(" in mm", f" in {unit}") for name, text in texts
    }
    results = {
        "predictions": os.path.abspath(predictions),
        "references": os.path.abspath(references),
        "cases": f"{kind}, each scored as a whole",
        "regions": {name: region.labels for name, region in regions.items()},
        "protocols": overlap.PROTOCOLS | distances | {"interval_95": bootstrap.PROTOCOL},
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
    _print_table(results)
    if output:
        with open(output, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=2, allow_nan=False)
        print(f"protocols and values by case: {output}")


def _regions(text, kind):
    """{name: Region} of --regions."""
    values = np.arange(256)
    if text is None:
        above = 0 if kind == VOLUMES else 127
        return {"foreground": Region(f"above {above}", values > above)}
    regions = {}
    for part in text.split(","):
        name, _, labels = part.partition(":")
        numbers = [int(label) if label.isdecimal() else -1 for label in labels.split("+")]
        if not name or name in regions or min(numbers) < 0 or max(numbers) > 255:
            raise ConfigError(
                f"--regions={text}: {part!r} is not a new name and labels up to 255, as in "
                "liver:1+2,tumour:2"
            )
        regions[name] = Region(labels, np.isin(values, numbers))
    return regions


def _image_spacing(text, kind):
    """The unit of distances, and the spacing in it where files do not tell, of --spacing_mm."""
    if kind == VOLUMES:
        if text is not None:
            raise ConfigError("--spacing_mm is for images: volumes have theirs in the header")
        return "mm", None
    if text is None:
        return "pixels", (1.0, 1.0)
    try:
        rows, columns = map(float, text.split(","))
        if not (0 < rows < np.inf and 0 < columns < np.inf):
            raise ValueError
    except ValueError:
        raise ConfigError(f"--spacing_mm={text}: use two positive numbers, as in 0.2,0.2") from None
    return "mm", (rows, columns)


def _patient(pattern, case):
    if pattern is None:
        return case
    try:
        match = re.match(pattern, case)
        patient = match and match[1]
    except (re.error, IndexError) as error:
        raise ConfigError(f"--patient_pattern={pattern}: {error}, use e.g. ([^_]+)") from None
    if not patient:
        raise ConfigError(f"--patient_pattern={pattern} finds no patient in case {case}")
    return patient


def _scores(prediction, reference, spacing, unit):
    """{metric: float} of one case, with distances named by their unit."""
    scores = case_scores(prediction, reference, spacing)
    return {_in_unit(name, unit): score for name, score in scores.items()}


def _in_unit(name, unit):
    return name.replace("_mm", f"_{unit}")


def _print_table(results):
    for region, part in results["results"].items():
        overall = part["overall"]
        print(f"{region:24}" + "".join(f"{metric:>13}" for metric in overall))
        for case, scores in part["by_case"].items():
            _print_row(f"  {case}", [scores[metric] for metric in overall])
        _print_row("mean", [summary["mean"] for summary in overall.values()])
        for end, label in enumerate(("95 % interval from", "95 % interval to")):
            ends = [summary["interval_95"] for summary in overall.values()]
            _print_row(label, [interval and interval[end] for interval in ends])
        cases = [f"{summary['cases']:13}" for summary in overall.values()]
        print(f"{'cases where defined':24}" + "".join(cases))


def _print_row(label, values):
    cells = [f"{'-':>13}" if value is None else f"{value:13.4f}" for value in values]
    print(f"{label:24}" + "".join(cells))


if __name__ == "__main__":
    command.run(main)
