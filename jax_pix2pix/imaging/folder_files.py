"""Lists a folder: which files may be images, of which kind, and why the others are passed over.

All that reads a folder of images lists it here, so that all agree on what is a candidate.
"""

import contextlib
import os
from typing import NamedTuple

from jax_pix2pix.imaging.formats.dicom_elements import is_dicom
from jax_pix2pix.imaging.safe_io import PICTURES
from jax_pix2pix.imaging.volume_file import ENDINGS

VOLUME, PICTURE, DICOM, JSRT, ARRAY = "volume", "picture", "DICOM file", "JSRT image", "array"
SERIES = "DICOM series"  # the files of one folder
DICOM_ENDINGS = (".dcm", ".dicom")  # of some; others have none
BY_ENDING = {".img": JSRT, ".npy": ARRAY} | dict.fromkeys(DICOM_ENDINGS, DICOM)
BY_ENDING |= dict.fromkeys(ENDINGS, VOLUME) | dict.fromkeys((*PICTURES, ".gif"), PICTURE)
SYSTEM = {"thumbs.db", "desktop.ini", "icon\r", "__macosx", "lost+found"}  # in lower case
TEXTS = (
    ".csv", ".tsv", ".txt", ".md", ".rst", ".json", ".jsonl", ".xml", ".html", ".htm", ".yaml",
    ".yml", ".xls", ".xlsx", ".ods", ".doc", ".docx", ".pdf", ".log", ".toml", ".ini", ".cfg",
    ".bib", ".py", ".sh", ".ipynb", ".md5", ".sha1", ".sha256", ".sha512", ".bval", ".bvec",
)  # fmt: skip
TEXT_NAMES = {
    "readme", "license", "licence", "copying", "citation", "changes", "changelog", "dicomdir",
    "md5sums", "sha1sums", "sha256sums", "sha512sums", "checksums", "manifest", "makefile",
}  # fmt: skip
VOXELS = (".raw", ".zraw")  # of a .mhd, which names them
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".gz", ".7z", ".rar", ".bz2", ".xz")
UNREAD = (
    ".bmp", ".webp", ".jp2", ".heic", ".svg", ".mgz", ".mgh", ".mnc", ".hdr", ".nhdr", ".nii.zst",
    ".npz", ".mat", ".h5", ".hdf5", ".pt", ".tfrecord",
)  # fmt: skip


class Entry(NamedTuple):
    """A file, or a folder that is not looked into.

    Attributes:
        name: relative to the folder that was listed.
        kind: VOLUME, PICTURE, DICOM, JSRT or ARRAY; "" if it is passed over.
        why: it is passed over.
    """

    name: str
    kind: str
    why: str = ""


def not_looked_into(name):
    """Why a folder of this name is not looked into; "" if it is."""
    if name.startswith("."):
        return "hidden"
    return "made by the system" if name.lower() in SYSTEM else ""


def is_folder(entry):
    """Whether an os.DirEntry is a folder; no link is that leads nowhere, or to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def no_candidate(name):
    """Why a file of this name is no candidate, whatever it holds; "" if it may be."""
    if why := not_looked_into(name):
        return why
    lower = name.lower()
    if lower.endswith(TEXTS) or lower in TEXT_NAMES:
        return "a text or a table"
    if lower.endswith(VOXELS):
        return "voxels that another file names"
    if lower.endswith(ARCHIVES) and not lower.endswith(ENDINGS):
        return "an archive, which is not opened"
    return ""


def kind_of(path):
    """(kind, why) of a file, as in `Entry`: by its ending, or if that is unknown its beginning."""
    name = os.path.basename(os.fspath(path)).lower()
    for ending, kind in BY_ENDING.items():
        if name.endswith(ending):
            return kind, ""
    if name.endswith(UNREAD):
        return "", "an image of a format that is not read"
    with contextlib.suppress(OSError):
        if is_dicom(path):
            return DICOM, ""
    return "", "no known image"


def listed(root, apart=None, deep=True):
    """Lists all below a folder, or the files in it alone.

    Links to files are followed, those to folders are not.

    Args:
        apart: path of a folder, of results, that is not looked into.
        deep: whether folders are looked into, and entered if they are not.

    Returns:
        [Entry], sorted by name. A folder that is not looked into has an entry of its own.

    Raises:
        OSError: a folder cannot be read.
    """
    root, found = os.fspath(root), []
    apart = apart and os.path.realpath(apart)
    waiting = [root]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                name = os.path.relpath(entry.path, root)
                folder = is_folder(entry)
                if folder and not deep:
                    continue
                if folder:
                    why = not_looked_into(entry.name)
                    if not why and entry.is_symlink():
                        why = "a linked folder, which is not followed"
                    elif os.path.realpath(entry.path) == apart:
                        why = "the folder of the results"
                    if why:
                        found.append(Entry(name, "", why))
                    else:
                        waiting.append(entry.path)
                elif why := no_candidate(entry.name):
                    found.append(Entry(name, "", why))
                elif os.path.isfile(entry.path):
                    found.append(Entry(name, *kind_of(entry.path)))
                else:
                    why = "a link that leads nowhere" if entry.is_symlink() else "no regular file"
                    found.append(Entry(name, "", why))
    return sorted(found)


def series_of(entries):
    """{folder: [names of its DICOM files]} of a list of Entry; the root is "."."""
    found = {}
    for entry in entries:
        if entry.kind == DICOM:
            found.setdefault(os.path.dirname(entry.name) or ".", []).append(entry.name)
    return found


def alone(folders, names):
    """The folders of a list that lie neither in the folder of one of the files nor below it.

    PATIENT/dicom is not alone beside PATIENT/mr.nii.gz, and may hold the same. The root is the
    folder of many patients: what lies there is beside nothing.
    """
    known = {os.path.dirname(name) for name in names} - {""}

    def beside(folder):
        while folder not in ("", "."):
            if folder in known:
                return True
            folder = os.path.dirname(folder)
        return False

    return [folder for folder in folders if not beside(folder)]
