"""A folder of source files: its entries, its fingerprint and its account. No TensorFlow."""

import functools
import hashlib
import os
from pathlib import Path

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import folder_files
from jax_pix2pix.imaging.folder_files import is_folder, no_candidate, not_looked_into
from jax_pix2pix.imaging.volume_file import voxel_file
from jax_pix2pix.safety.accounts import PASSED, USED, Account
from jax_pix2pix.safety.shown import check_name


class SourceFolder:
    """Lists a source folder and takes the fingerprint of the files that a data set is made of.

    The fingerprint covers names, sizes and modification times. Contents would be too slow for 1e5
    files, and sizes alone would miss a corrected mask, since all .npy masks have one size.
    """

    def __init__(self, source):
        self.root = Path(source).resolve()
        self._digest = hashlib.sha256()
        self._added = set()
        self._left_out = {}  # {name of a file that was added: why}

    def entries(self, folder):
        """The os.DirEntry of a folder's folders and of the files that may be images, sorted.

        What is passed over here, such as hidden files and texts, `account` tells.

        Raises:
            DataError: the folder, or something in it, is a link to outside of the source.
        """
        self._check_inside(Path(folder))
        with os.scandir(folder) as entries:
            entries = [
                entry
                for entry in entries
                if not (not_looked_into if is_folder(entry) else no_candidate)(entry.name)
            ]
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
        self._added.add(name)
        return name

    def add_volume(self, entry):
        """Adds a volume like `add`, and the file of a .mhd's voxels too. -> name of `entry`."""
        name = self.add(entry)
        beside = voxel_file(os.fspath(entry))
        if beside and beside.is_file():  # reading the volume tells if it is missing
            self.add(beside)
        return name

    def leave_out(self, name, why):
        """Says that a file that was added makes no record. It stays in the fingerprint."""
        self._left_out[name] = why

    def named(self, name):
        """The path of a file of this name, whatever its case, in the root."""
        return named(self.root, name)

    def account(self, refuse_series=False):
        """The Account of all below the root: what was added is used, unless it is left out.

        A file that is used through a link is entered by the link's name alone.

        Args:
            refuse_series: whether a patient would be left out who has a DICOM series and no volume.

        Raises:
            DataError: such a series lies there.
        """
        account, unused = Account(self.root), []
        for name in self._added:
            why = self._left_out.get(name, "")
            account.add(name, PASSED if why else USED, why)
        known = self._added | self._behind_links()
        for entry in folder_files.listed(self.root):
            if entry.name in known:
                continue
            unused.append(entry)
            named = f"a {entry.kind} that is no part of the layout"
            account.add(entry.name, PASSED, entry.why or named)
        series = folder_files.series_of(unused)
        if refuse_series and (alone := folder_files.alone(series, self._added)):
            raise DataError(
                f"{self.root / alone[0]} holds DICOM files, {Path(series[alone[0]][0]).name} and "
                "so on, beside no volume that is used, and this data set takes volumes only: "
                "convert the series, or move it away"
            )
        return account

    def _behind_links(self):
        """Names of the files that links to added files lead to, and of linked folders on the way.

        Folders that are no links may be among them.
        """
        found, real_folder = set(), functools.cache(os.path.realpath)
        for name in self._added:
            path = os.path.join(self.root, name)
            folder, file = os.path.split(path)
            real = os.path.join(real_folder(folder), file)
            if os.path.islink(real):
                real = os.path.realpath(real)
            if real != path:
                found |= {os.path.relpath(real, self.root), *map(str, Path(name).parents)}
        return found

    def check_three(self, items, what):
        """Raises DataError if there are too few items for three splits."""
        if len(items) < 3:
            raise DataError(
                f"{self.root} holds {len(items)} {what}, and there are three splits: add some"
            )

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


def named(root, name):
    """The Path of a file of this name, whatever its case, in a folder."""
    found = [entry for entry in os.listdir(root) if entry.lower() == name.lower()]
    return Path(root, name if name in found or not found else min(found))
