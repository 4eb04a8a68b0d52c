"""Remakes the embedded chest CT slices from two published packages.

    python -m input_pipeline.samples.make [--output=DIR] [--packages=DIR] [--check]

Two chest CT volumes lie as test data inside the source archives of two Python packages. Each
becomes a folder of 128x128 CT slices and class masks, on one geometry for both patients. The same
input gives the same bytes: one thread, double precision, pinned sources. README.md has the rest.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from PIL import Image
from tqdm import tqdm

from input_pipeline.samples.lungs import segment_lungs

SIZE = 128  # pixels along each side of a slice
SPACING_MM = 2.5  # of a slice, so the field of view is 320 mm square
SUPERSAMPLING = 4  # samples per pixel and axis, whose mean is the pixel
WINDOW_HU = (-1000.0, 400.0)
AIR_HU = -1000.0  # where a slice reaches beyond the scan
MIN_LUNG_MM2 = 1000.0  # slices with less lung than this are left out

CLASS_NODULE = 2  # 0 is outside, 1 lung
BUILD_HELPERS = ("numpy", "setuptools", "wheel", "cython", "versioneer", "setuptools_scm")
PRODUCTS = ("chest_ct", "LICENSES", "SHA256SUMS")


class MakeError(Exception):
    """A fault the user can act on; its text is one line."""


class Source(NamedTuple):
    """One patient's volume, as a member of a package's source archive."""

    patient: str
    split: str
    package: str  # name and version
    sha256: str  # of the archive
    image: str
    label: str | None  # nodules, voxel for voxel of the image
    licence: str


SOURCES = (
    Source(
        *("TS-CTA-0001", "train", "totalsegmentator-2.18.0"),
        "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03",
        *("tests/reference_files/aorta_report/example_ct.nii.gz", None, "LICENSE"),
    ),
    Source(
        *("PR-LUNG1-0001", "test", "pyradiomics-3.0.1"),
        "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
        *("data/lung1_image.nrrd", "data/lung1_label.nrrd", "LICENSE.txt"),
    ),
)


def download(folder: Path) -> None:
    """Has pip fetch the source archives into `folder`.

    pip asks a source archive for its metadata, and pyradiomics 3.0.1 answers only where numpy and
    its build helpers are installed already; an environment made for it has them.
    """
    venv = folder / "venv"
    python = venv / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    get = [*pip, "download", "--dest", folder, "--no-deps", "--no-binary"]
    totalsegmentator, pyradiomics = (s.package.replace("-", "==") for s in SOURCES)
    steps = {
        "make an environment": [sys.executable, "-m", "venv", venv],
        "install build helpers": [*pip, "install", *BUILD_HELPERS],
        "get totalsegmentator": [*get, "totalsegmentator", totalsegmentator],
        "get pyradiomics": [*get, "pyradiomics", pyradiomics, "--no-build-isolation"],
    }
    for what, command in tqdm(steps.items(), desc="packages", unit="step"):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            why = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise MakeError(
                f"could not {what} ({why}): check pip and the network, or pass --packages=DIR"
                " with the archives in it"
            )


def extract(source: Source, packages: Path, folder: Path) -> dict[str, Path]:
    """Copies the source's named files, and no others, out of its archive; checks its hash first."""
    archive = packages / f"{source.package}.tar.gz"
    if not archive.is_file():
        raise MakeError(f"{archive} is missing: put it there, or leave out --packages")
    if (found := sha256_of(archive)) != source.sha256:
        raise MakeError(
            f"{archive} has SHA-256 {found}, not {source.sha256}: delete it and fetch"
            f" {source.package.replace('-', '==')} again"
        )
    files = {}
    with tarfile.open(archive) as tar:
        for role in ("image", "label", "licence"):
            if member := getattr(source, role):
                try:
                    content = tar.extractfile(f"{source.package}/{member}").read()
                except KeyError:
                    raise MakeError(f"{archive} holds no {member}: fetch it again") from None
                files[role] = folder / Path(member).name
                files[role].write_bytes(content)
    return files


def sha256_of(path: Path) -> str:
    """The file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resample_slice(image: sitk.Image, centre_mm, is_mask: bool = False) -> np.ndarray:
    """One 2-D slice on the common grid: nearest neighbour for masks, area mean for HU.

    The mean over a pixel's area is the anti-aliasing: the source has up to 4x finer pixels.
    """
    factor = 1 if is_mask else SUPERSAMPLING
    interpolator = sitk.sitkNearestNeighbor if is_mask else sitk.sitkLinear
    count, step_mm = SIZE * factor, SPACING_MM / factor
    origin_mm = [c - (count - 1) / 2 * step_mm for c in centre_mm]
    fine = sitk.Resample(
        *(image, (count, count), sitk.Transform(), interpolator, origin_mm, (step_mm, step_mm)),
        *(image.GetDirection(), 0 if is_mask else AIR_HU, sitk.sitkFloat64),
    )
    return sitk.GetArrayFromImage(fine).reshape(SIZE, factor, SIZE, factor).mean(axis=(1, 3))


def window_to_uint8(hu: np.ndarray) -> np.ndarray:
    """Maps `WINDOW_HU` to 0..255; everything darker or brighter is clipped."""
    low, high = WINDOW_HU
    return np.rint((np.clip(hu, low, high) - low) * (255 / (high - low))).astype(np.uint8)


def make_slices(source: Source, files: dict[str, Path], folder: Path) -> None:
    """Writes every slice of one patient that shows enough lung, with its mask, under `folder`."""
    # Both volumes are LPS with identity directions: rows run to the back and columns to the
    # patient's left, which is the radiological display, so nothing is flipped.
    ct_hu = sitk.ReadImage(str(files["image"]))
    nodule = sitk.ReadImage(str(files["label"])) > 0 if source.label else None
    lungs = segment_lungs(ct_hu)
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(lungs)
    x, y, _, width, height, _ = shape.GetBoundingBox(1)
    middle = (x + (width - 1) / 2, y + (height - 1) / 2, 0.0)
    centre_mm = ct_hu.TransformContinuousIndexToPhysicalPoint(middle)[:2]

    for k in tqdm(range(ct_hu.GetDepth()), desc=source.patient, unit="slice"):
        mask = (resample_slice(lungs[:, :, k], centre_mm, is_mask=True) > 0).astype(np.uint8)
        if mask.sum() * SPACING_MM**2 < MIN_LUNG_MM2:
            continue
        if nodule is not None:  # has the last word: tumour is too bright for the lung threshold
            mask[resample_slice(nodule[:, :, k], centre_mm, is_mask=True) > 0] = CLASS_NODULE
        kind, word = ("with_nodules", "combined") if CLASS_NODULE in mask else ("clean", "lung")
        target = folder / source.split / kind
        target.mkdir(parents=True, exist_ok=True)
        pixels = window_to_uint8(resample_slice(ct_hu[:, :, k], centre_mm))
        # Run-length deflate (3) gives the same bytes with zlib and zlib-ng; the default does not.
        png = target / f"{source.patient}_slice_{k:04d}.png"
        Image.fromarray(pixels).save(png, compress_level=9, compress_type=3)
        with (target / f"{source.patient}_{word}_mask_{k:04d}.npy").open("wb") as file:
            np.lib.format.write_array(file, mask, version=(1, 0), allow_pickle=False)


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every sample file and licence in `folder`, by its path in there."""
    paths = [path for name in PRODUCTS[:2] for path in (folder / name).rglob("*")]
    return {p.relative_to(folder).as_posix(): sha256_of(p) for p in sorted(paths) if p.is_file()}


def check(folder: Path) -> None:
    """Raises `MakeError` naming the first file that differs from SHA256SUMS."""
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        raise MakeError(f"{sums} is missing: run without --check to make the samples")
    lines = [line.split("  ", 1) for line in sums.read_text().splitlines()]
    listed = {name: digest for digest, name in lines}
    found = hashes(folder)
    for path in sorted(listed | found):
        if listed.get(path) != found.get(path):
            what = "is missing" if path not in found else "differs from SHA256SUMS"
            raise MakeError(f"{folder / path} {what}: run without --check to remake the samples")


def make(output: Path, packages: Path | None = None) -> None:
    """Makes the samples in `output`; nothing there changes unless everything was made."""
    if (output / PRODUCTS[0]).exists() and not (output / PRODUCTS[2]).is_file():
        raise MakeError(
            f"{output / PRODUCTS[0]} was not made here (no SHA256SUMS beside it) and will not be"
            " replaced: choose another --output"
        )
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # sums in one order, hence the same bits
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".make-") as scratch:
        work, new, old = (Path(scratch, name) for name in ("work", "new", "old"))
        for folder in (work, new / "LICENSES", old):
            folder.mkdir(parents=True)
        if packages is None:
            download(packages := work)
        extracted = [extract(source, packages, work) for source in SOURCES]
        for source, files in zip(SOURCES, extracted, strict=True):
            shutil.copyfile(files["licence"], new / "LICENSES" / f"{source.package}.txt")
            make_slices(source, files, new / "chest_ct")
        lines = [f"{digest}  {path}\n" for path, digest in hashes(new).items()]  # as `sha256sum`
        (new / "SHA256SUMS").write_text("".join(lines), newline="\n")
        for name in PRODUCTS:
            if (output / name).exists():
                (output / name).rename(old / name)
            (new / name).rename(output / name)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.samples.make",
        description="Remake the embedded chest CT slices from the packages they come from.",
    )
    parser.add_argument("--output", type=Path, default=here, help="where to (default: beside this)")
    parser.add_argument("--packages", type=Path, help="folder of the archives, to not download")
    parser.add_argument("--check", action="store_true", help="only compare with SHA256SUMS")
    args = parser.parse_args(argv)
    try:
        check(args.output) if args.check else make(args.output, args.packages)
    except (MakeError, OSError) as error:
        print(f"make: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
