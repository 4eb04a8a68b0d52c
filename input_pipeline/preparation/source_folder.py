"""A folder of source files: its entries and its fingerprint. No TensorFlow."""

import hashlib
import os
from pathlib import Path

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.volume_file import voxel_file
from jax_pix2pix.safety.shown import check_name

THUMBNAILS = "Thumbs.db"  # hidden by Windows; published data sets hold some


class SourceFolder:
    """Lists a source folder and takes the fingerprint of the files that a data set is made of.

    The fingerprint covers names, sizes and modification times. Contents would be too slow for 1e5
    files, and sizes alone would miss a corrected mask, since all .npy masks have one size.
    """

    def __init__(self, source):
        self.root = Path(source).resolve()
        self._digest = hashlib.sha256()

    def entries(self, folder):
        """The os.DirEntry of all that is not hidden in a folder, sorted by name.

        Raises:
            DataError: the folder, or something in it, is a link to outside of the source.
        """
        self._check_inside(Path(folder))
        with os.scandir(folder) as entries:
            entries = [e for e in entries if not e.name.startswith(".") and e.name != THUMBNAILS]
        for entry in entries:
            if entry.is_symlink():
                self._check_inside(Path(entry.path))
        return sorted(entries, key=lambda entry: entry.name)

    def add(self, entry):
        """Adds a file to the fingerprint. -> its name, relative to the root.

        Args:
            entry: os.DirEntry of `entries`, or Path of a file that lies within the root.

        Raises:
            DataError: it is empty, not a file, or a link to outside of the source, or its name
                could not be shown or written as it is.
        """
        path = os.fspath(entry)
        if isinstance(entry, Path):  # `entries` has checked the others
            self._check_inside(entry)
        name = os.path.relpath(path, self.root)
        check_name(path)
        if not entry.is_file():
            raise DataError(f"{path} is not a file: move it away")
        stat = entry.stat()
        if not stat.st_size:
            raise DataError(f"{path} is empty: restore or remove it")
        self._digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return name

    def add_volume(self, entry):
        """Adds a volume like `add`, and the file of a .mhd's voxels too. -> name of `entry`."""
        name = self.add(entry)
        beside = voxel_file(os.fspath(entry))
        if beside and beside.is_file():  # reading the volume tells if it is missing
            self.add(beside)
        return name

    @property
    def fingerprint(self):
        """The fingerprint of all files added so far, in their order."""
        return self._digest.hexdigest()

    def _check_inside(self, path):
        try:
            inside = path.resolve().is_relative_to(self.root)
        except (OSError, RuntimeError) as error:  # links that lead to each other
            raise DataError(f"{path} is a link that leads nowhere: remove it") from error
        if not inside:
            raise DataError(
                f"{path} is a link to outside of {self.root}: put a copy there instead, or give "
                "the folder that holds the files themselves"
            )
