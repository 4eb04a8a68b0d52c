"""What `launch.predict` does with MR or cone beam CT volumes: synthetic CT on their voxels."""

import functools
import json
import os
import sys

import jax
import numpy as np
import tqdm

from input_pipeline import prepared_files
from jax_pix2pix.imaging import mr_volumes
from jax_pix2pix.imaging.body_mask import body_mask
from jax_pix2pix.imaging.mr_intensity import stored_cbct, stored_mr
from input_pipeline.datasets.mri_ct.layouts import MASKS_NOTE
from jax_pix2pix.imaging.planes import cut, native, stored_image
from jax_pix2pix.imaging import volume_file
from jax_pix2pix.imaging.volume import Volume
from jax_pix2pix.imaging.resizing import evaluation_image
from jax_pix2pix.errors import DataError
from jax_pix2pix.adversarial import generate
from jax_pix2pix.inference.sliding_window import blend
from jax_pix2pix.metrics import protocols
from jax_pix2pix.metrics.sct_scores import score_patient
from jax_pix2pix.intensity import to_network, to_stored
from jax_pix2pix.inference import inputs
from jax_pix2pix.evaluation import synthesis_report
from jax_pix2pix.inference.files import replacing

BATCH = 16  # slices
GRID = (
    "all slices of the volume, on the voxels of the synthetic CT's file, which are the CT's, with "
    "their spacing, HU rounded to whole ones"
)
COLUMNS = {"mae": "MAE, HU", "psnr": "PSNR, dB", "ssim": "SSIM", "ms_ssim": "MS-SSIM"}


def predict(
    config, system, generator, header, source, output, mask=None, reference=None, workdir=None
):
    """Writes a synthetic CT of each volume, one volume after the other.

    Args:
        config, system, generator: of the run.
        header: {"workdir", "checkpoint": its name, "step": its number}, for the scores' files too.
        source: a volume, or without mask and reference a folder of them at any depth.
        output: see `launch.predict` for what is written there.
        mask: file of the body in the volume; without one, mask.* beside a volume that is called as
            in SynthRAD, or else what `body_mask` finds.
        reference: file of the volume's real CT, to be scored against: the scores are printed and
            written beside the output, see synthesis_report.write. With config.data.resample MR and
            mask are resampled to its voxels, as for training, and so is the synthetic CT.

        workdir: of the run, if the header's is not a folder here.

    Raises:
        DataError: there are no volumes, one cannot be read, or mask or reference are not on its
            voxels, where nothing is resampled.
    """
    outputs = compiled(system, config.data)
    grid = _grid(config.data, reference)
    modality, others = config.data.modality, {mask, reference}
    for path, result in inputs.mr_volumes(source, output, modality, others):
        body_path = mask or _mask_beside(path, modality)
        geometry = grid or _own_grid(path, body_path, reference)
        stored, values, body = prepared(path, body_path, config.data, grid)
        shown = mr_volumes.shows_body(body, config.data)
        network = functools.partial(outputs, generator)
        small = _synthesised(network, stored, shown, config.data, path)
        hu = np.empty(geometry.shape, np.int16)
        slices = cut(hu, config.data.plane)
        for k, plane in enumerate(small):
            slices[k] = np.rint(native(plane, slices.shape[1:]))
        with replacing(result) as temporary:
            volume_file.write_hu(temporary, hu, Volume(hu, geometry))
        where = body_path or f"Otsu's threshold of {path}, holes filled, largest component"
        trained = "" if body_path else _training_masks(workdir or header["workdir"])
        print(f"{result}\nbody mask: {where}{trained}", flush=True)
        if reference:
            about = header | {"input": path, "reference": reference, "mask": where}
            seen = values, volume_file.read_ct(reference).values, hu, body > 0
            _score(result, config.system, about, seen, geometry.spacing_mm)


def _grid(data, reference):
    """The Geometry to which MR and mask are resampled; None leaves them on their own voxels."""
    if not data.resample:
        return None
    if reference:
        print(f"MR and mask are resampled, as for training, to the voxels of {reference}")
        return volume_file.read_geometry(reference)
    print(
        "warning: this run was trained on MR resampled to the CT's voxels (config.data.resample), "
        "and here field of view and voxels stay the MR's own, which may differ: give a file on "
        "the voxels that are wanted as --reference, volume by volume",
        file=sys.stderr,
    )


def _own_grid(path, *others):
    """Geometry of a volume. Raises DataError where one of the others, if any, is on another one."""
    geometry = volume_file.read_geometry(path)
    for other in filter(None, others):
        grid = volume_file.read_geometry(other)
        geometry.check_same_grid(path, grid, other, "resample the latter")
    return geometry


def _mask_beside(path, modality):
    """The path of mask.* beside a volume that is called as in SynthRAD, or None."""
    if inputs.stem(path) == modality:
        for ending in volume_file.ENDINGS:
            beside = os.path.join(os.path.dirname(path), f"mask{ending}")
            if os.path.exists(beside):
                return beside
    return None


def _training_masks(workdir):
    """What the record of a run's data says of masks from files; "" without them, or a record."""
    try:
        notes = prepared_files.read(
            os.path.join(workdir, prepared_files.RECORD),
            "a preparation's record",
            lambda text: json.loads(text)["notes"],
        )
    except DataError:  # of runs from before there is none
        return ""
    return "".join(f"; in training: {note}" for note in notes if note.startswith(MASKS_NOTE))


def prepared(path, body_path, data, grid=None):
    """A volume as preparation and evaluation make it, and its body.

    Args:
        body_path: file of the body, or None: it is found.
        data: config.data.
        grid: Geometry to which both are resampled; None leaves them where they are.

    Returns:
        (uint16 [slices, S, S, 1], of data.plane, S being data.image_size; the same before it was
        cut and resized, uint16 [slices, rows, columns], axial; and the body, likewise, uint8).
    """
    values = mr_volumes.read_source(path, data.modality, grid)
    body = mr_volumes.read_body(body_path, grid) if body_path else body_mask(values)
    try:
        if data.modality == "cbct":
            values = stored_cbct(values)
        else:
            values = stored_mr(values, body, data.mr_percentiles)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    slices = cut(values, data.plane)
    planes = (stored_image(plane, data.stored_size, beyond=0)[..., None] for plane in slices)
    stored = np.stack([evaluation_image(plane, data.image_size) for plane in planes])
    return stored, values, body


def compiled(system, data):
    """(generator, stored [n, *spatial, c]) -> HU, float32 [n, *spatial, 1]."""

    @jax.jit
    def outputs(generator, stored):
        fake = generate(system, generator, to_network(stored, data.source_range))
        return to_stored(fake, data.window_hu)

    return outputs


def _synthesised(outputs, stored, shown, data, path):
    """HU of a prepared volume: slices with their neighbours, or in 3D blended patches.

    shown: bool [slices], which show some body. As in training, which has no others, the last slice
        with body is its own neighbour.

    Returns:
        float32 [slices, S, S].
    """
    name = os.path.basename(path)
    if data.depth:
        side = data.patch_size or data.image_size
        with tqdm.tqdm(desc=name, unit="patch") as progress:

            def counted(patch):
                progress.update()
                return outputs(patch)

            return blend(stored, (data.depth, side, side), counted)[..., 0]
    last = len(stored) - 1
    neighbours = np.arange(-data.context, data.context + 1)
    ends = np.flatnonzero(np.diff(shown)) + 1  # where stretches with and without body begin
    stretch = np.searchsorted(ends, np.arange(len(stored)), side="right")
    first, stop = np.append(0, ends)[stretch], np.append(ends, len(stored))[stretch]
    hu = np.empty(stored.shape[:3], np.float32)
    for start in tqdm.tqdm(range(0, len(stored), BATCH), desc=name, unit="batch"):
        # The last slice is repeated, so that the generator is compiled once.
        slices = np.minimum(np.arange(start, start + BATCH), last)
        own = first[slices, None], stop[slices, None] - 1
        around = np.clip(slices[:, None] + neighbours, *own)
        batch = outputs(np.moveaxis(stored[around, ..., 0], 1, -1))
        hu[start : start + BATCH] = np.asarray(batch)[: len(stored) - start, ..., 0]
    return hu


def _score(result, system, about, seen, spacing_mm):
    """Prints the scores of a synthetic CT and writes beside it what `launch.evaluate` does.

    about: the header with "input", "reference" and "mask", in words.
    seen: source, CT, synthetic CT and body, as synthesis_report.page has them.
    """
    _, ct, sct, body = seen
    scores = score_patient(ct, sct, body, spacing_mm)
    _print_scores(scores)
    page = synthesis_report.page(about["input"], len(ct), seen, spacing_mm, scores)
    results = about | synthesis_report.results({"model": [scores]}, [page], GRID, {})
    facts, title = {"system": system} | about, f"Synthetic CT of {page.name}"
    synthesis_report.write(volume_file.without_ending(result), title, facts, results, [page])


def _print_scores(scores):
    """A row a protocol, and below what each of them is."""
    print(f"{'':20}" + "".join(f"{title:>12}" for title in COLUMNS.values()))
    for name in protocols.PROTOCOLS:
        found = [scores.get(f"{name}.{key}") for key in COLUMNS]
        cells = (f"{'-':>12}" if value is None else f"{value:12.4f}" for value in found)
        print(f"{name:20}" + "".join(cells))
    for name, protocol in protocols.PROTOCOLS.items():
        print(f"{name}, version {protocol.version}: {protocol.text}")
