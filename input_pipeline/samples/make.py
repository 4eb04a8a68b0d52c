"""Remakes the embedded samples from three published packages.

    python -m input_pipeline.samples.make [--output=DIR] [--packages=DIR] [--check]

The samples come from volumes inside the source archives of Python packages, most of them test
data. The module of a sample's name makes its folder. The same input gives the same bytes: one
thread, double precision, pinned sources. README.md has the rest.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import SimpleITK as sitk

from input_pipeline.samples import (
    abdomen_ct,
    brain_templates,
    chest_ct,
    chest_volumes,
    xray_simulated,
)
from input_pipeline.samples.sources import (
    ARCHIVES,
    NOTICES,
    MakeError,
    download,
    extract,
    sha256_of,
)

SAMPLES = {
    "chest_ct": chest_ct.make,
    "xray_simulated": xray_simulated.make,
    "abdomen_ct": abdomen_ct.make,
    "brain_templates": brain_templates.make,
    "chest_volumes": chest_volumes.make,
}
LICENCES, SUMS = "LICENSES", "SHA256SUMS"


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every sample file and licence in `folder`, by its path there."""
    paths = [path for name in (*SAMPLES, LICENCES) for path in (folder / name).rglob("*")]
    return {p.relative_to(folder).as_posix(): sha256_of(p) for p in sorted(paths) if p.is_file()}


def check(folder: Path) -> None:
    """Raises `MakeError` naming the first file that differs from SHA256SUMS."""
    sums = folder / SUMS
    if not sums.is_file():
        raise MakeError(f"{sums} is missing: run without --check to make the samples")
    lines = [line.split("  ", 1) for line in sums.read_text().splitlines()]
    listed = {name: digest for digest, name in lines}
    found = hashes(folder)
    for path in sorted(listed | found):
        if listed.get(path) != found.get(path):
            what = "is missing" if path not in found else f"differs from {SUMS}"
            raise MakeError(f"{folder / path} {what}: run without --check to remake the samples")


def make(output: Path, packages: Path | None = None) -> None:
    """Makes the samples in `output`; nothing there changes unless everything was made."""
    for name in SAMPLES:
        if (output / name).exists() and not (output / SUMS).is_file():
            raise MakeError(
                f"{output / name} was not made here (no {SUMS} beside it) and will not be"
                " replaced: choose another --output"
            )
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # one order of sums gives the same bits
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".make-") as scratch:
        work, new, old = (Path(scratch, name) for name in ("work", "new", "old"))
        for folder in (work, new / LICENCES, old):
            folder.mkdir(parents=True)
        if packages is None:
            download(packages := work)
        files = {}
        for archive in ARCHIVES:
            files |= extract(archive, packages, work)
            shutil.copyfile(files.pop("licence"), new / LICENCES / f"{archive.package}.txt")
        for name, notice in NOTICES.items():
            (new / LICENCES / f"{name}.txt").write_text(notice, newline="\n")
        for name, make_sample in SAMPLES.items():
            make_sample(files, new / name)
        lines = [f"{digest}  {path}\n" for path, digest in hashes(new).items()]  # as `sha256sum`
        (new / SUMS).write_text("".join(lines), newline="\n")
        for name in (*SAMPLES, LICENCES, SUMS):
            if (output / name).exists():
                (output / name).rename(old / name)
            (new / name).rename(output / name)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.samples.make",
        description="Remake the embedded samples from the packages they come from.",
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
