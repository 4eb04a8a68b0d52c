"""The published packages whose volumes the samples are made from: pinned, fetched and checked."""

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

BUILD_HELPERS = ("numpy", "setuptools", "wheel", "cython", "versioneer", "setuptools_scm")


class MakeError(Exception):
    """A fault the user can act on; its text is one line."""


class Archive(NamedTuple):
    """The source archive of a Python package."""

    package: str  # name and version
    sha256: str  # of the archive
    licence: str  # a member of the archive, like the volumes
    volumes: dict[str, str]  # members, by their names in the samples


ARCHIVES = (
    Archive(
        "totalsegmentator-2.18.0",
        "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03",
        "LICENSE",
        {
            "chest_angiography": "tests/reference_files/aorta_report/example_ct.nii.gz",
            "abdomen": "tests/reference_files/example_ct.nii.gz",
            "abdomen_organs": "tests/reference_files/example_seg_fast_force_split.nii.gz",
            "brain_ct": "totalsegmentator/resources/ct_brain_atlas_1mm.nii.gz",
        },
    ),
    Archive(
        "pyradiomics-3.0.1",
        "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
        "LICENSE.txt",
        {"chest": "data/lung1_image.nrrd", "chest_nodule": "data/lung1_label.nrrd"},
    ),
    Archive(
        "nilearn-0.14.1",
        "6f7ec639be2c9e4a3625ebc4f25c3de31ae3af21331c8d03e27201c482609672",
        "LICENSE",
        {"brain_mr": "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"},
    ),
)

# The MR template's own terms: COPYING of the templates that the institute publishes. nilearn passes
# the template on without them. The notice has to be in every copy.
NOTICES = {
    "mni_icbm152": """\
Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological
Institute, McGill University. Permission to use, copy, modify, and distribute this software and its
documentation for any purpose and without fee is hereby granted, provided that the above copyright
notice appear in all copies. The authors and McGill University make no representations about the
suitability of this software for any purpose. It is provided "as is" without express or implied
warranty. The authors are not responsible for any data loss, equipment damage, property loss, or
injury to subjects or patients resulting from the use or misuse of this software package.
"""
}


def download(folder: Path) -> None:
    """Has pip fetch the source archives into `folder`.

    pip asks a source archive for its metadata. pyradiomics 3.0.1 answers only if numpy and its
    build helpers are installed already, so an environment is made that has them.
    """
    venv = folder / "venv"
    python = venv / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    get = [*pip, "download", "--dest", folder, "--no-deps", "--no-binary"]
    totalsegmentator, pyradiomics, nilearn = (a.package.replace("-", "==") for a in ARCHIVES)
    steps = {
        "make an environment": [sys.executable, "-m", "venv", venv],
        "install build helpers": [*pip, "install", *BUILD_HELPERS],
        "get totalsegmentator": [*get, "totalsegmentator", totalsegmentator],
        "get pyradiomics": [*get, "pyradiomics", pyradiomics, "--no-build-isolation"],
        "get nilearn": [*get, "nilearn", nilearn],
    }
    for what, command in tqdm(steps.items(), desc="packages", unit="step"):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            why = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise MakeError(
                f"could not {what} ({why}): check pip and the network, or pass --packages=DIR"
                " with the archives in it"
            )


def extract(archive: Archive, packages: Path, folder: Path) -> dict[str, Path]:
    """Copies the licence and the volumes, and nothing else, into `folder`; checks the hash first.

    Returns:
        The copies' paths by name, "licence" and those of `archive.volumes`.
    """
    path = packages / f"{archive.package}.tar.gz"
    if not path.is_file():
        raise MakeError(f"{path} is missing: put it there, or leave out --packages")
    if (found := sha256_of(path)) != archive.sha256:
        raise MakeError(
            f"{path} has SHA-256 {found}, not {archive.sha256}: delete it and fetch"
            f" {archive.package.replace('-', '==')} again"
        )
    files = {}
    with tarfile.open(path) as tar:
        for name, member in {"licence": archive.licence, **archive.volumes}.items():
            try:
                content = tar.extractfile(f"{archive.package}/{member}").read()
            except KeyError:
                raise MakeError(f"{path} holds no {member}: fetch it again") from None
            files[name] = folder / f"{name}_{Path(member).name}"  # two members share a file name
            files[name].write_bytes(content)
    return files


def sha256_of(path: Path) -> str:
    """The file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
