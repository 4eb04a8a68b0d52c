"""Names of patients and files in prepared data: their own, or pseudonyms that a key makes.

All that follows from prepared data, such as results, logs, trackers and pictures, takes its names
from there. The key and the table back to the true names lie in a file elsewhere.
"""

import base64
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import stat
from pathlib import Path

from jax_pix2pix.errors import DataError
from jax_pix2pix.safety import named_files, safe_files
from jax_pix2pix.safety.paths import expanded

LENGTH = 12  # letters and digits of a pseudonym: 60 bits, so that a million patients do not collide
# Classes that name nobody: those of the data sets, and regions of the body. Any other may be the
# folder of a patient.
KNOWN_LABELS = {
    "", "clean", "with_nodules", "img_mask", "montgomery", "shenzhen", "jsrt",
    "brain", "head", "neck", "head_neck", "hn", "thorax", "chest", "lung", "th", "breast", "heart",
    "abdomen", "ab", "liver", "pelvis", "prostate", "spine",
}  # fmt: skip
ABOUT = "key and true names of pseudonymised data: keep this file secret, and apart from the data"


def names_nobody(label):
    """Whether a class, or the folder that it is, is known to be no patient."""
    return label.lower() in KNOWN_LABELS


class TrueNames:
    """Leaves names as they are."""

    key_id = None  # of the key, which it does not reveal; None without one

    def patient(self, name):
        return name

    def true_name(self, name):
        """The patient's own name, given that or a pseudonym of the file."""
        return name

    def file(self, patient, name):
        """The name of a file of a patient, relative to the source folder."""
        del patient
        return name

    def path(self, name):
        """The name of any file below the source folder, also of one that is not used."""
        return name

    def label(self, name):
        """The class of an item, which may be the name of a folder of the source."""
        return name

    def source(self, folder):
        return str(folder.resolve())

    def fingerprint(self, digest):
        return digest

    def save(self, folder, items, others=()):
        """Keeps the true names."""


class Pseudonyms(TrueNames):
    """Replaces names by HMAC-SHA256 of them under the key of a file.

    One file serves several preparations: a patient then has one pseudonym in all of them.
    """

    def __init__(self, path, *apart_from):
        """Reads the file, or makes a key for one that does not exist yet.

        Args:
            path: of the file, JSON.
            apart_from: folders in which it must not lie.

        Raises:
            DataError: it lies there, others may read it, or it holds no key.
            OSError: it could not be written.
        """
        # What a link leads to: it is read and replaced there.
        self._path = Path(os.path.realpath(named_files.output(expanded(path))[0]))
        for folder in apart_from:
            if self._path.is_relative_to(Path(folder).resolve()):
                raise DataError(
                    f"--pseudonyms={path} lies in {folder}: keep the key apart from the data"
                )
        try:
            named_files.check_output(self._path)
        except FileNotFoundError as error:
            raise DataError(
                f"--pseudonyms={path}: there is no folder {error.filename}: make it first"
            ) from None
        self._key, self._known = secrets.token_bytes(32), {}
        if self._path.exists():
            known = self._read()
            self._key, self._known = bytes.fromhex(known["key"]), known["patients"]
        self.key_id = hashlib.sha256(b"id" + self._key).hexdigest()[:16]

    def patient(self, name):
        return f"P{self._code('patient', name)}"

    def true_name(self, name):
        return self._known[name]["patient"] if name in self._known else name

    def file(self, patient, name):
        return f"{self.patient(patient)}/F{self._code('file', name)}"

    def path(self, name):
        return f"F{self._code('file', name)}"

    def label(self, name):
        return name if names_nobody(name) else f"L{self._code('label', name)}"

    def source(self, folder):
        del folder
        return f"the folder named in the file of pseudonyms with the key {self.key_id}"

    def fingerprint(self, digest):
        """A digest from which one cannot tell whether a guess of the files' names is right."""
        return hmac.new(self._key, digest.encode(), "sha256").hexdigest()

    def save(self, folder, items, others=()):
        """Adds the true names of a preparation to the file, readable by its owner alone.

        Args:
            folder: the source.
            items: of `Found.splits`.
            others: names of all files that `path` is asked for.

        Raises:
            DataError: two patients have one pseudonym, which never happens by chance.
        """
        with safe_files.open_lock(self._path.with_name(f".{self._path.name}.lock")) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another preparation may write too
            known = self._read() if self._path.exists() else {"sources": [], "patients": {}}
            if known.setdefault("key", self._key.hex()) != self._key.hex():
                raise DataError(f"{self._path} got another key meanwhile: start again")
            for item in items:
                name = self.patient(item.patient)
                entry = known["patients"].setdefault(name, {"patient": item.patient, "files": {}})
                if entry["patient"] != item.patient:
                    raise DataError(f"{self._path}: two patients have the pseudonym {name}")
                entry["files"][self.file(item.patient, item.file_name)] = item.file_name
                if not names_nobody(item.label):
                    known.setdefault("classes", {})[self.label(item.label)] = item.label
            known.setdefault("files", {}).update({self.path(name): name for name in others})
            if str(folder.resolve()) not in known["sources"]:
                known["sources"].append(str(folder.resolve()))
            content = json.dumps({"about": ABOUT} | known, indent=1)
            safe_files.write(self._path, content, private=True)

    def _read(self):
        try:
            with safe_files.open_to_read(self._path) as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    raise DataError(f"others may read {self._path}: chmod 600 {self._path}")
                known = json.load(file)
            if len(bytes.fromhex(known["key"])) < 32:
                raise ValueError("the key is short")
            if missing := {"patients", "sources"} - known.keys():
                raise ValueError(f"it has no {min(missing)}")
        except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
            raise DataError(
                f"{self._path} cannot be read as a file of pseudonyms ({error}): restore it, or "
                "name one that does not exist yet"
            ) from None
        return known

    def _code(self, kind, name):
        digest = hmac.new(self._key, f"{kind}\0{name}".encode("utf-8", "surrogateescape"), "sha256")
        return base64.b32encode(digest.digest()).decode()[:LENGTH]
