"""The tutorial runs from its first cell to its last, with a shorter training."""

import pytest
from PIL import Image

from tests import commands

LINE = 'config = mri2ct.get_config("quickstart")\n'
SHORT = """
config.epochs = config.sample_every_epochs = config.checkpoint_every_epochs = 2
config.constant_epochs, config.generator.width, config.discriminator.width = 1, 4, 4
config.data.image_size = 32
"""


@pytest.mark.slow
def test_tutorial(tmp_path):
    text = (commands.ROOT / "docs/tutorial.py").read_text(encoding="utf-8")
    assert text.count(LINE) == 1
    program = text.replace(LINE, LINE + SHORT)
    variables = {"PYTHONPATH": str(commands.ROOT)}
    process = commands.python("-c", program, folder=tmp_path, variables=variables)
    out, _ = commands.finish(process)
    assert "synthrad2023.mae" in out and "tissue_regression" in out
    for name in ("sct.png", "error.png", "evaluation/test.png"):
        with Image.open(tmp_path / "tutorial" / name) as picture:
            assert picture.width > 200
    assert (tmp_path / "tutorial" / "sct.nii.gz").exists()
