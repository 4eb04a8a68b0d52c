"""Lung masks of chest CT volumes by threshold, components and morphology."""

import numpy as np
import SimpleITK as sitk

LUNG_HU = -400.0  # everything darker inside the body is lung, airway or gas
AIRWAY_HU = range(-500, -1000, -25)  # upper thresholds tried for the airways, most generous first
AIRWAY_MAX_ML = 60.0  # a larger growth has leaked into the lungs
MIDLINE_MM = 30.0  # above the lungs only the airway lies this near to the midline
CLOSING_MM = 5.0  # fills vessels up to about twice this width


def _as_image(mask: np.ndarray, like: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.CopyInformation(like)
    return image


def _components(mask: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    labels = sitk.GetArrayFromImage(sitk.ConnectedComponent(mask))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0  # background
    return labels, sizes


def _grow_airways(ct_hu: sitk.Image, body_air: np.ndarray) -> np.ndarray:
    """Grows trachea and main bronchi down from the neck at the highest threshold without a leak.

    `body_air` is the lungs joined by the airways.
    """
    hu, spacing_mm = sitk.GetArrayViewFromImage(ct_hu), ct_hu.GetSpacing()
    columns = np.nonzero(body_air.any(axis=(0, 1)))[0]
    midline = (columns[0] + columns[-1]) / 2
    lateral = np.abs(np.arange(body_air.shape[2]) - midline) * spacing_mm[0] > MIDLINE_MM
    # The lowest slice whose only body air is the airway is the one above the apices.
    neck = int(np.nonzero(body_air[:, :, lateral].any(axis=(1, 2)))[0][-1]) + 1
    above = body_air.copy()
    above[:neck] = False
    for upper_hu in AIRWAY_HU:
        seeds = np.argwhere(above[neck] & (hu[neck] < upper_hu))
        seeds = [(int(x), int(y), neck) for y, x in seeds]
        grown = sitk.GetArrayFromImage(sitk.ConnectedThreshold(ct_hu, seeds, -32768, upper_hu))
        if grown.sum() * np.prod(spacing_mm) / 1000 <= AIRWAY_MAX_ML:
            break
    return above | (grown > 0)


def segment_lungs(ct_hu: sitk.Image) -> sitk.Image:
    """Lung mask (0/1) of a chest CT in HU, at its own resolution.

    Air that reaches an in-plane edge of its slice is outside the patient. The first and the last
    slice are no such edge, since a scan may end inside the lungs. The largest remaining body of air
    is both lungs joined by the airways; bowel gas is separate. The wide airways and their walls are
    removed, and the rest is closed over vessels and small bronchi.
    """

    def ball(radius_mm):  # in-plane only: the masks are used slice by slice
        return [round(radius_mm / spacing) for spacing in ct_hu.GetSpacing()[:2]] + [0]

    labels, sizes = _components(ct_hu < LUNG_HU)
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        sizes[edge] = 0
    body_air = labels == np.argmax(sizes)

    airways = _as_image(_grow_airways(ct_hu, body_air), ct_hu)
    airways = sitk.BinaryMorphologicalClosing(airways, ball(1.5))  # noise
    airways = sitk.BinaryMorphologicalOpening(airways, ball(3))  # bronchi inside the lungs
    airways = sitk.BinaryDilate(airways, ball(3))  # walls

    lungs = sitk.And(_as_image(body_air, ct_hu), sitk.Not(airways))
    labels, sizes = _components(sitk.BinaryMorphologicalOpening(lungs, ball(1.5)))
    # Two lungs, or one component where they touch in front of the heart; crumbs are far smaller.
    lungs = _as_image((sizes > sizes.max() / 10)[labels], ct_hu)
    lungs = sitk.BinaryMorphologicalClosing(lungs, ball(CLOSING_MM))
    return sitk.BinaryFillhole(sitk.And(lungs, sitk.Not(airways)))


def lung_box_centre(lungs: sitk.Image) -> tuple[float, float]:
    """In-plane centre (x, y) of the lungs' bounding box, in mm."""
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(lungs)
    x, y, _, width, height, _ = shape.GetBoundingBox(1)
    middle = (x + (width - 1) / 2, y + (height - 1) / 2, 0.0)
    return lungs.TransformContinuousIndexToPhysicalPoint(middle)[:2]
