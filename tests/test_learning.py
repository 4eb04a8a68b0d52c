"""A system of half width learns eight slices of the sample; dropout is off when scored."""

import os
import subprocess
import sys

import pytest

from tests.commands import ROOT


@pytest.mark.slow
@pytest.mark.long
def test_overfits_eight_slices(sample_data_dir):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.learn", f"--data_dir={sample_data_dir}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("step")]
    scores = {int(step): float(ssim) for _, step, _, ssim in lines}
    assert scores[200] >= 0.70 and scores[400] >= 0.80, scores
