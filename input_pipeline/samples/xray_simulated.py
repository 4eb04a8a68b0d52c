"""Simulated chest radiographs: projections of the chest CT angiography, and their lung fields.

X-rays are attenuated along parallel lines from the front to the back (Beer-Lambert), at one energy,
without scatter, blur or a grid; photons are counted (Poisson) and shown on a logarithmic scale.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from scipy.spatial import ConvexHull
from tqdm import tqdm

from input_pipeline.samples.lungs import lung_box_centre, segment_lungs
from input_pipeline.samples.reproducible_files import write_png

PATIENT = "TS-CTA-0001"
SIDE = 286  # pixels along each side of a picture
PIXEL_MM = 1.0  # so a picture is as high as the scan, 286.5 mm
STEP_MM = 1.5  # along a ray
ANGLES_DEG = range(-19, 20, 2)  # about the axis from feet to head
WATER_PER_MM = 0.0206  # attenuation at 60 keV, about the mean of a 120 kV beam

MIN_LUNG_MM = 5.0  # along a ray of the lung field
MAX_OTHER_MM = 50.0  # of heart, diaphragm, ... along a ray of the lung field
CLOSING_PIXELS = 5  # over vessels of the hilum


class Exposure(NamedTuple):
    """How a picture is taken and shown."""

    photons: float  # that would reach a pixel with no patient in between
    black: float  # attenuation shown as 0: the logarithm of sent over arrived photons
    white: float  # attenuation shown as 255
    gamma: float  # of the grey values between them


EXPOSURES = (
    Exposure(photons=2e5, black=1.0, white=6.2, gamma=0.8),
    Exposure(photons=3e4, black=0.5, white=6.0, gamma=0.7),  # noisy and light
    Exposure(photons=8e5, black=1.6, white=6.8, gamma=1.0),  # dark
)


def attenuation_per_mm(ct_hu: sitk.Image) -> sitk.Image:
    """Linear attenuation coefficients by the definition of HU; air has none."""
    return sitk.Clamp(sitk.Cast(ct_hu, sitk.sitkFloat64) / 1000 + 1, lowerBound=0) * WATER_PER_MM


def project(volume: sitk.Image, centre_mm, angle_deg: float) -> np.ndarray:
    """Integrals over mm along parallel rays, seen from the front.

    Args:
        volume: LPS with identity directions; zero outside.
        centre_mm: (x, y, z), in the middle of the picture; the view turns about it.
        angle_deg: of the viewer from the front towards the patient's left.

    Returns:
        float64 [SIDE, SIDE], head at the top and the patient's right at the left.
    """
    size, spacing_mm = np.array(volume.GetSize()), np.array(volume.GetSpacing())
    corners_mm = np.array(volume.GetOrigin()) + np.array([[0], [1]]) * (size - 1) * spacing_mm
    reach_mm = math.hypot(*np.abs(corners_mm - centre_mm).max(axis=0)[:2])
    count = np.array([SIDE, 2 * math.ceil(reach_mm / STEP_MM) + 1, SIDE])
    step_mm = np.array([PIXEL_MM, STEP_MM, PIXEL_MM])
    turn = sitk.Euler3DTransform(centre_mm, 0, 0, math.radians(angle_deg))
    turned = sitk.Resample(
        *(volume, count.tolist(), turn, sitk.sitkLinear),
        *((centre_mm - (count - 1) / 2 * step_mm).tolist(), step_mm.tolist()),
        *(volume.GetDirection(), 0.0, sitk.sitkFloat64),
    )
    return sitk.GetArrayViewFromImage(turned).sum(axis=1)[::-1] * STEP_MM


def thorax(lungs: sitk.Image) -> sitk.Image:
    """The inside of the lungs' outline, slice by slice: 1 in the convex hull, 0 outside.

    The hull is that of the lungs from the top down to the slice. So below the diaphragm's dome,
    where the lungs are crescents, it is as wide as the dome.
    """
    so_far = np.maximum.accumulate(sitk.GetArrayFromImage(lungs)[::-1])[::-1]
    pixels = np.indices(so_far.shape[1:]).reshape(2, -1)
    inside = np.zeros_like(so_far)
    for mask, hull in zip(so_far, inside, strict=True):
        if mask.any():
            sides = ConvexHull(np.argwhere(mask)).equations
            distance = sides[:, :2] @ pixels + sides[:, 2:]  # outwards
            hull.flat = (distance < 1e-6).all(axis=0)
    image = sitk.GetImageFromArray(inside)
    image.CopyInformation(lungs)
    return image


def lung_field(lung_mm: np.ndarray, thorax_mm: np.ndarray) -> np.ndarray:
    """The lung that a reader outlines: without heart or diaphragm before or behind it.

    Args:
        lung_mm, thorax_mm: lengths along the rays.

    Returns:
        uint8 of their shape, 255 inside.
    """
    field = (lung_mm > MIN_LUNG_MM) & (thorax_mm - lung_mm < MAX_OTHER_MM)
    image = sitk.GetImageFromArray(np.where(field, 255, 0).astype(np.uint8))
    closed = sitk.BinaryMorphologicalClosing(image, [CLOSING_PIXELS] * 2, foregroundValue=255)
    return sitk.GetArrayFromImage(closed)


def expose(attenuation: np.ndarray, exposure: Exposure, seed: int) -> np.ndarray:
    """The picture of projected attenuation, bone white: uint8 of its shape."""
    # RandomState's numbers are frozen; those of newer generators may change with NumPy.
    counts = np.random.RandomState(seed).poisson(exposure.photons * np.exp(-attenuation))
    measured = np.log(exposure.photons / np.maximum(counts, 1))
    grey = np.clip((measured - exposure.black) / (exposure.white - exposure.black), 0, 1)
    return np.rint(255 * grey**exposure.gamma).astype(np.uint8)


def make(files: dict[str, Path], folder: Path) -> None:
    """Writes img/ and mask/: all exposures of the first angle, then of the next one, ..."""
    ct_hu = sitk.ReadImage(str(files["chest_angiography"]))
    lungs = segment_lungs(ct_hu)
    middle = [(count - 1) / 2 for count in ct_hu.GetSize()]
    z_mm = ct_hu.TransformContinuousIndexToPhysicalPoint(middle)[2]
    centre_mm = (*lung_box_centre(lungs), z_mm)
    volumes = [attenuation_per_mm(ct_hu)]
    volumes += [sitk.Cast(mask, sitk.sitkFloat64) for mask in (lungs, thorax(lungs))]

    for kind in ("img", "mask"):
        (folder / kind).mkdir(parents=True)
    view = 0
    for angle_deg in tqdm(ANGLES_DEG, desc="simulated radiographs", unit="angle"):
        attenuation, *lengths_mm = (project(volume, centre_mm, angle_deg) for volume in volumes)
        mask = lung_field(*lengths_mm)
        for exposure in EXPOSURES:
            name = f"{PATIENT}_view_{view:04d}.png"
            write_png(folder / "img" / name, expose(attenuation, exposure, seed=view))
            write_png(folder / "mask" / name, mask)
            view += 1
