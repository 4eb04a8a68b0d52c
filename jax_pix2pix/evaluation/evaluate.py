"""Scores a trained run on its prepared data: `evaluate(run, dataset)`, for every kind of run."""

import dataclasses
import json
import os
from collections.abc import Callable

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.evaluation import ct_slices, pyramid, segmentation, synthesis
from jax_pix2pix.runs import workdir_files
from jax_pix2pix.runs.known_patients import MANIFEST, read_known, scored_and_seen
from jax_pix2pix.safety.paths import expanded
from jax_pix2pix.tasks import kinds

EVALUATORS = {
    kinds.CT_SLICES: ct_slices.evaluate,
    kinds.XRAY_MASKS: segmentation.evaluate,
    kinds.CT_MASKS: segmentation.evaluate,
    kinds.RESIZED_CT_MASKS: segmentation.evaluate,
    kinds.SYNTHETIC_CT: synthesis.evaluate,
    kinds.CT_SAMPLES: pyramid.evaluate,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of a run.

    Attributes:
        split: the split that was scored.
        results: the contents of the JSON file: every value, with its protocol.
        table: the means as text.
    """

    split: str
    results: dict
    table: str
    _write: Callable

    def save(self, folder, below=None):
        """Writes <split>.json, and .csv, .html and .png where this kind of run has them.

        Args:
            folder: made if missing.
            below: the workdir, where `folder` lies in one; it may then be no link.

        Returns:
            [(what it is, path)].
        """
        folder = expanded(folder)
        below = folder if below is None else below
        return self._write(os.path.join(folder, self.split), self.results, below)


def evaluate(run, dataset, split=None, progress=None, **options):
    """Scores a run on a split, beside baselines that need no network.

    Args:
        run: Run.
        dataset: input_pipeline.Dataset of the run's data.
        split: "train", "validation" or "test", the default; a pyramid's is always "train".
        progress: (done, total) -> None.
        **options: for masks mc_dropout, passes with dropout to average, largest_components to keep,
            and fill_holes; for a pyramid count and seed of samples, and volumes, how many to score.

    Returns:
        Evaluation.

    Raises:
        ConfigError: an option does not fit the run, or no example can be read.
        DataError: the data is not prepared.
    """
    options = {name: value for name, value in options.items() if value is not None}
    split = kinds.evaluated_split(run.config, split, options)
    _check_data(run.config.data, dataset.data)
    header = {"split": split, "checkpoint": run.checkpoint, "step": run.step}
    seen, told = _seen(run, dataset, split)
    results, table, write = EVALUATORS[run.kind](run, dataset, split, progress, **options)
    return Evaluation(split, header | seen | results, "\n".join([table, *told]), write)


def _seen(run, dataset, split):
    """Who of the scored patients was seen before. -> (entry of the results, lines of the table)."""
    if run.kind == kinds.CT_SAMPLES:  # made from noise, and judged by what they memorise
        return {}, []
    scored = [one for one in read_known(dataset.directory) if one.split == split]
    patients = {one.patient for one in scored}
    if not run.known:
        return {"seen": None}, [f"seen in training: not known, {run.workdir} has no {MANIFEST}"]
    found = scored_and_seen(run.known, scored)
    by_name = sum(how == "name" for how in found.values())
    line = f"seen in training or validation: {len(found)} of {len(patients)} scored patients" + (
        f", {by_name} by name, {len(found) - by_name} by pixels" if found else ""
    )
    return {"seen": {"patients": len(patients), "seen": found}}, [line]


def _check_data(own, given):
    """Raises ConfigError where data of another window or size would be scored as the run's own."""
    if given is own:
        return
    own, given = (dict(workdir_files.flat(json.loads(data.to_json()))) for data in (own, given))
    for field in sorted(own.keys() | given.keys()):
        if f"data.{field}" not in workdir_files.CHANGEABLE and own.get(field) != given.get(field):
            raise ConfigError(
                f"config.data.{field} is {own.get(field)} in the run and {given.get(field)} in the "
                "data set: use Dataset(run.config.data), or change its data_dir alone"
            )
