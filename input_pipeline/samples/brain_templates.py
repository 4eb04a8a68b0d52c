"""An MR and a CT template of the brain on one grid, in the layout of SynthRAD."""

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from input_pipeline.samples.reproducible_files import write_gzip

PATIENT = "Task1/brain/template"
AIR_HU = -1000
EDGE = 128  # voxels along each side of a slice
BLOCK = 2  # 1 mm voxels of the templates along each side of a voxel of the sample
BINS = 32  # of the joint histogram
LEVELS = (8, 4)  # shrink factors of the registration, and its blur in mm
STEP_MM = (1.0, 1e-4)  # first and smallest step of the descent


def make(files: dict[str, Path], folder: Path) -> None:
    """Writes mr.nii.gz, ct.nii.gz and mask.nii.gz of one patient; prints how well they match."""
    mr, ct = (sitk.ReadImage(files[name], sitk.sitkFloat64) for name in ("brain_mr", "brain_ct"))
    mr_brain, ct_brain = brain(mr), brain(ct)
    transform = register(mr, ct, mr_brain, ct_brain)
    hu = sitk.Resample(ct, mr, transform, sitk.sitkLinear, 0.0)
    ct_brain = sitk.Resample(ct_brain, mr, transform, sitk.sitkNearestNeighbor, 0)
    in_mr, in_ct = (sitk.GetArrayFromImage(mask) > 0 for mask in (mr_brain, ct_brain))
    numbers = " ".join(f"{value:.4f}" for value in transform.GetParameters())
    print(f"brain_templates: affine from the MR to the CT, matrix and shift in mm: {numbers}")
    print(f"brain_templates: Dice of the brains {dice(in_mr, in_ct):.4f}")

    both = in_mr & in_ct
    inside = blocks(crop(both, both)).mean(axis=-1) > 0.5
    mr, hu = (means(crop(sitk.GetArrayFromImage(i), both), crop(both, both)) for i in (mr, hu))
    arrays = {
        "mr": np.where(inside, np.rint(mr), 0).astype(np.uint8),
        "ct": np.where(inside, np.rint(hu), AIR_HU).astype(np.int16),
        "mask": inside.astype(np.uint8),
    }
    affine = nib.load(files["brain_mr"]).affine @ nib.affines.from_matvec(
        np.diag([float(BLOCK)] * 3), np.add(corner(both)[::-1], (BLOCK - 1) / 2)
    )
    (folder / PATIENT).mkdir(parents=True)
    for name, array in arrays.items():
        image = nib.Nifti1Image(array.T, affine)  # x first
        image.header.set_xyzt_units("mm")
        write_gzip(folder / PATIENT / f"{name}.nii.gz", image.to_bytes())


def brain(image: sitk.Image) -> sitk.Image:
    """uint8: 1 in the largest component of nonzero voxels, with its holes filled."""
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(image != 0))
    filled = ndimage.binary_fill_holes(sitk.GetArrayFromImage(parts) == 1)
    mask = sitk.GetImageFromArray(filled.astype(np.uint8))
    mask.CopyInformation(image)
    return mask


def register(mr: sitk.Image, ct: sitk.Image, mr_brain: sitk.Image, ct_brain: sitk.Image):
    """The affine transform from the MR's millimetres to the CT's.

    It begins with the brains' moments and maximises the mutual information of all voxels, so no
    sampling is random.
    """
    start = sitk.CenteredTransformInitializer(
        mr_brain,
        ct_brain,
        sitk.AffineTransform(3),
        sitk.CenteredTransformInitializerFilter.MOMENTS,
    )
    transform = sitk.AffineTransform(start)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        *STEP_MM, numberOfIterations=200, gradientMagnitudeTolerance=1e-8
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(LEVELS)
    method.SetSmoothingSigmasPerLevel(LEVELS)
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(mr, ct)
    return transform


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Dice of two masks of one shape."""
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def corner(mask: np.ndarray) -> list[int]:
    """First voxel of the kept part of a grid: the lowest slice of a mask [z, y, x], and the row and
    column that put the mask's bounding box in the middle of the slices. They may be below 0."""
    extents = [np.flatnonzero(mask.any(axis=axes))[[0, -1]] for axes in ((1, 2), (0, 2), (0, 1))]
    (lowest, _), *in_plane = extents
    return [int(lowest), *(int(sum(ends) + 1) // 2 - EDGE * BLOCK // 2 for ends in in_plane)]


def crop(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`values` [z, y, x] from the `corner` of the mask to its highest slice, in whole blocks."""
    start = corner(mask)
    highest = int(np.flatnonzero(mask.any(axis=(1, 2)))[-1])
    depth = (highest + 1 - start[0]) // BLOCK * BLOCK
    kept = np.zeros((depth, EDGE * BLOCK, EDGE * BLOCK), values.dtype)
    ends = zip(start, kept.shape, values.shape, strict=True)
    there = [slice(max(0, first), min(first + size, limit)) for first, size, limit in ends]
    here = [slice(s.start - first, s.stop - first) for s, first in zip(there, start, strict=True)]
    kept[tuple(here)] = values[tuple(there)]
    return kept


def blocks(values: np.ndarray) -> np.ndarray:
    """[z, y, x] as [z / BLOCK, y / BLOCK, x / BLOCK, voxels of the block]."""
    depth, rows, columns = (size // BLOCK for size in values.shape)
    split = values.reshape(depth, BLOCK, rows, BLOCK, columns, BLOCK)
    return split.transpose(0, 2, 4, 1, 3, 5).reshape(depth, rows, columns, -1)


def means(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean of each block's voxels in the mask; 0 if it has none."""
    total = blocks(values * mask).sum(axis=-1)
    return total / np.maximum(blocks(mask).sum(axis=-1), 1)
