"""Scores systems that make synthetic CT of volumes, patient by patient, beside baselines."""

import functools

import numpy as np

from jax_pix2pix.evaluation import ct_baselines, synthesis_report
from jax_pix2pix.evaluation.masks import note_unknown, with_unknown_spacing
from jax_pix2pix.evaluation.volumes import of_slices, patient_volumes
from jax_pix2pix.imaging.hounsfield import check_hu
from jax_pix2pix.imaging.mr_intensity import source_hu
from jax_pix2pix.imaging.mr_volumes import IN_HU
from jax_pix2pix.imaging.planes import PLANES, to_axial
from jax_pix2pix.intensity import to_stored
from jax_pix2pix.metrics import sct_scores
from jax_pix2pix.runs.workdir_files import SOURCES_NOTE
from jax_pix2pix.safety.shown import shown

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


def evaluate(run, dataset, split, progress=None):
    """Scores the model and baselines. -> (results, table, write) of an Evaluation."""
    config, system, generator = run.config, run.system, run.generator
    data, examples = config.data, dataset.examples(split)
    patients = [example.patient for example in examples]
    training = (
        of_slices(batch, ("source", "target", "mask"))[1:] for batch in _batches(dataset, "train")
    )
    baselines = ct_baselines.fit_baselines(
        ((source, hu, mask > 0) for source, hu, mask in training), data.source_range
    )

    # A picture's grey levels in a window were checked by the whole folder; runs without a note of
    # what they learnt from count as those of volumes.
    pictures = f"{SOURCES_NOTE}pictures" in run.source_notes
    in_hu = data.modality in IN_HU  # then the source itself is a baseline
    others = [*baselines, "identity"] if in_hu else list(baselines)
    cases, pages = {name: [] for name in ("model", *others)}, []
    batches = _batches(dataset, split)
    for volumes in patient_volumes(system, generator, batches, patients, seen=in_hu):
        of_patient = [examples[index] for index in volumes.indices]
        if not pictures:
            check_hu(volumes.ct, f"the prepared CT of {shown(of_patient[0].patient)}")
        spacing_mm = spacing_of(data, of_patient)
        predictions = {"model": volumes.sct} | {
            name: baseline(volumes.source, volumes.mask) for name, baseline in baselines.items()
        }
        if in_hu:
            predictions["identity"] = source_hu(to_stored(volumes.seen, data.source_range))
        # All is axial from here on: a dose and a filter have directions.
        volumes, predictions = (
            _axial(volumes, data.plane),
            {name: to_axial(sct, data.plane) for name, sct in predictions.items()},
        )
        scorer = sct_scores.CTScorer(volumes.ct, volumes.mask, spacing_mm)
        for name, sct in predictions.items():
            cases[name].append(scorer(sct))
        pictured = [getattr(volumes, name) for name in VOLUMES]
        name, images = of_patient[0].patient, len(of_patient)
        pages.append(synthesis_report.page(name, images, pictured, spacing_mm, cases["model"][-1]))
        if progress:
            progress(len(pages), len(set(patients)))

    grid = GRID.format(plane=data.plane, side=data.image_size)
    if data.depth:
        grid += IN_3D.format(depth=data.depth)
    protocols = {name: ct_baselines.PROTOCOLS[name] for name in others}
    results = synthesis_report.results(cases, pages, grid, protocols)
    table = synthesis_report.table(f"{split}, {len(pages)} patients", results)
    results["spacing_unknown"] = unknown = with_unknown_spacing(examples)
    table = "\n".join([table, *note_unknown(unknown)])
    return results, table, functools.partial(_write, config, pages)


def _write(config, pages, path, results, below):
    """Writes the files of an Evaluation; pages: report.PatientPage of each patient."""
    facts = {
        "system": config.system,
        "split": results["split"],
        "checkpoint": f"{results['checkpoint']}, step {results['step']}",
        "slices": sum(patient.images for patient in pages),
    }
    if seen := results["seen"]:
        facts["seen in training"] = f"{len(seen['seen'])} of {seen['patients']} patients"
    if results["spacing_unknown"]:
        facts["spacing unknown"] = f"{len(results['spacing_unknown'])} patients"
    title = f"Synthetic CT, {results['split']} split"
    return synthesis_report.write(path, title, facts, results, pages, below)


def _batches(dataset, split):
    """Yields evaluation batches with the body as "mask"."""
    of_mask = dataset.with_target("mask", "uint8")
    both = (of_both.eval_batches(split) for of_both in (dataset, of_mask))
    for batch, masks in zip(*both, strict=True):
        yield batch | {"mask": masks["target"]}


def _axial(volumes, plane):
    turned = {name: to_axial(getattr(volumes, name), plane) for name in VOLUMES}
    return volumes._replace(**turned)


def spacing_of(data, examples):
    """Computes the spacing of a patient's axial volume; None if unknown or slices are missing."""
    places = [example.slice_index for example in examples]
    spacing_mm = examples[0].spacing_mm
    if min(spacing_mm) <= 0 or (np.diff(places) != 1).any():
        return None
    factor = data.stored_size / data.image_size
    of_planes = spacing_mm[0], spacing_mm[1] * factor, spacing_mm[2] * factor
    return tuple(of_planes[axis] for axis in np.argsort(PLANES[data.plane]))
