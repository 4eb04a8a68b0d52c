"""What commands write may be read by their user alone, unless it is to be shared."""

import pytest

from tests import commands
from tests.input_pipeline.conftest import write_slice


@pytest.mark.parametrize(
    ("shared", "folders", "files"), [(False, 0o700, 0o600), (True, 0o755, 0o644)]
)
def test_permissions(tmp_path, shared, folders, files):
    for split in ("train", "test"):
        for patient in ("a", "b"):
            write_slice(tmp_path / "source", split, "clean", split + patient, 1)
    commands.run(
        "launch.prepare",
        "--config=lidc_mask2ct",
        f"--config.data.data_dir={tmp_path / 'data'}",
        f"--source={tmp_path / 'source'}",
        *(["--shared"] if shared else []),
        umask=0o022,
    )
    found = [path for path in (tmp_path / "data").rglob("*")]
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in found}
    assert modes == {(True, folders), (False, files)}
