"""A small abdominal CT with its liver, in the layout of the LiTS data set."""

from pathlib import Path

import nibabel as nib
import numpy as np

from input_pipeline.samples.reproducible_files import write_gzip

LIVER = 5  # in the package's labels
MARGIN = 8  # slices kept below the liver; the scan ends inside it


def make(files: dict[str, Path], folder: Path) -> None:
    """Writes volume-0.nii.gz, int16 HU, and segmentation-0.nii.gz, 1 where the liver is."""
    ct, organs = (nib.load(files[name]) for name in ("abdomen", "abdomen_organs"))
    liver = np.asarray(organs.dataobj) == LIVER
    lowest = int(np.nonzero(liver.any(axis=(0, 1)))[0][0]) - MARGIN  # slices run to the head
    hu = np.asarray(ct.dataobj)[:, :, lowest:]
    origin_mm = ct.affine @ (0, 0, lowest, 1)
    affine = np.column_stack((ct.affine[:, :3], origin_mm))
    folder.mkdir(parents=True)
    arrays = {"volume": hu.astype(np.int16), "segmentation": liver[:, :, lowest:].astype(np.uint8)}
    for name, array in arrays.items():
        image = nib.Nifti1Image(array, affine)
        image.header.set_xyzt_units("mm")
        write_gzip(folder / f"{name}-0.nii.gz", image.to_bytes())
