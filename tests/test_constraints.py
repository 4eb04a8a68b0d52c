"""The versions that are installed, their hashes, and what is looked up about them."""

import json
import re
import tomllib

import pytest

from tests.audit import summary
from tests.commands import ROOT


def _versions(name):
    """{package: version} of a file of requirements, names as registries compare them."""
    text = re.sub(r"(?m)#.*$", "", (ROOT / name).read_text(encoding="utf-8"))
    pairs = re.findall(r"(?m)^([\w.-]+)==([\w.+!-]+)", text)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in pairs}


def test_every_version_has_hashes():
    versions = _versions("constraints.txt")
    assert len(versions) > 150
    assert _versions("constraints-hashed.txt") == versions
    assert set(_versions("installers.txt")) == {"setuptools", "uv", "wheel"}


@pytest.mark.parametrize("name", ["constraints-hashed.txt", "installers.txt"])
def test_files_of_hashes_hold_nothing_else(name):
    """Neither an address, from which packages would come, nor an option."""
    lines = [
        line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if line[0] != "#"
    ]
    text = "\n".join(lines) + "\n"
    part = r"[\w.-]+==[\w.+!-]+( \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    assert re.fullmatch(f"({part})+", text)
    assert "://" not in (ROOT / name).read_text(encoding="utf-8")


def test_what_builds_the_project_has_a_hash():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
    assert build["requires"] == ["setuptools>=77"]
    assert int(_versions("installers.txt")["setuptools"].split(".")[0]) >= 77


def test_no_installer_on_other_machines_goes_without_hashes():
    files = [
        path
        for path in (ROOT / "launch/cluster").rglob("*.*")
        if path.suffix not in (".md", ".py", ".pyc")
    ]
    found = 0
    for path in files:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        fetched = re.search(r"\b(curl|wget)\b(?!.*metadata\.google\.internal)", text)
        assert not fetched, path  # a machine's own metadata are no program
        for line in text.splitlines():
            if re.search(r"\bpip(\b.*)? install\b", line) and "echo" not in line:
                found += 1
                known = "--require-hashes", "-c constraints-hashed.txt", "--no-build-isolation"
                assert any(option in line for option in known), (path, line)
    assert found >= 10


PACKAGE = {"name": "a", "version": "1", "vulns": []}
FAULT = {"id": "CVE-1", "fix_versions": ["2"]}
SKIPPED = {"name": "b", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "text", "code"),
    [
        ([PACKAGE, SKIPPED], "no known vulnerabilities in 1 packages", 0),
        ([PACKAGE | {"vulns": [FAULT]}, SKIPPED], "a 1: CVE-1, mended in 2", 1),
        ([SKIPPED], "known vulnerabilities were not looked up: the service", 0),
        (None, "known vulnerabilities were not looked up: ConnectionError: no route", 0),
    ],
)
def test_an_audit_that_could_not_be_made_is_one_line_and_no_failure(tmp_path, packages, text, code):
    report, errors = tmp_path / "report", tmp_path / "errors"
    if packages:
        report.write_text(json.dumps({"dependencies": packages}))
    errors.write_text("Traceback\nConnectionError: no route\n")
    said, ended = summary(report, errors)
    assert text in said and ended == code
    assert code or "\n" not in said
