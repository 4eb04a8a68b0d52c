"""Tells what pip-audit found: python -m tests.audit REPORT.json ERRORS.txt

A machine that does not reach the service of vulnerabilities says so in one line, and goes on.
"""

import json
import sys
from pathlib import Path


def summary(report, errors):
    """-> (what to print, the exit code: 1 for known vulnerabilities).

    Args:
        report: path of pip-audit's JSON, which is missing if it failed.
        errors: path of what it wrote to stderr.
    """
    try:
        packages = json.loads(Path(report).read_text(encoding="utf-8"))["dependencies"]
    except (OSError, ValueError):
        lines = Path(errors).read_text(encoding="utf-8", errors="replace").split("\n")
        reason = next((line for line in reversed(lines) if line.strip()), "it wrote nothing")
        return f"known vulnerabilities were not looked up: {reason[:200]}", 0
    found = [
        f"{package['name']} {package['version']}: {fault['id']}, mended in "
        f"{', '.join(fault['fix_versions']) or 'no version'}"
        for package in packages
        for fault in package.get("vulns", ())
    ]
    if found:
        return "\n".join(["known vulnerabilities:", *found]), 1
    skipped = [package for package in packages if "skip_reason" in package]
    if len(skipped) == len(packages):
        return "known vulnerabilities were not looked up: the service knows no package here", 0
    return f"no known vulnerabilities in {len(packages) - len(skipped)} packages", 0


if __name__ == "__main__":
    text, code = summary(*sys.argv[1:])
    print(text)
    sys.exit(code)
