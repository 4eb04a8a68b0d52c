"""A checkpoint's own metadata decides neither what is opened nor what is allocated."""

import json
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from jax_pix2pix.errors import WorkdirError
from jax_pix2pix.runs import file_digests
from jax_pix2pix.runs.checkpoint import Checkpoints

STATE = {"params": {"kernel": np.arange(100, dtype=np.float32)}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder, "ssim")
    checkpoints.save(8, jax.tree.map(jnp.asarray, STATE), {"ssim": 0.1})
    checkpoints.close()
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run" / "checkpoints")


def _restore(folder, dtype=jnp.float32):
    """Restores a checkpoint whose digests are right, as if someone had forged them too."""
    file_digests.write(folder / "8")
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {"params": {"kernel": jax.ShapeDtypeStruct((100,), dtype, sharding=place)}}
    checkpoints = Checkpoints(folder, "ssim", read_only=True)
    checkpoints.check_sound(checkpoints.resolve("best"))
    return checkpoints.restore(8, abstract)


def _files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _renamed(metadata, name):
    """Renames the kernel."""
    (entry,) = metadata["tree_metadata"].values()
    entry["key_metadata"][-1]["key"] = name
    metadata["tree_metadata"] = {f"('params', {name!r})": entry}


def _beside_it(metadata, name):
    """Adds another array of this name."""
    (entry,) = metadata["tree_metadata"].values()
    other = json.loads(json.dumps(entry))
    other["key_metadata"][-1]["key"] = name
    metadata["tree_metadata"][f"('params', {name!r})"] = other


def test_as_it_was_saved_it_is_restored(folder):
    np.testing.assert_array_equal(_restore(folder)["params"]["kernel"], np.arange(100))


@pytest.mark.parametrize("ocdbt", [True, False])
@pytest.mark.parametrize("name", ["../../../other/kernel", "{tmp}/other/kernel", "../" * 40])
@pytest.mark.parametrize("change", [_renamed, _beside_it])
def test_names_that_lead_elsewhere_are_refused(saved, folder, tmp_path, change, name, ocdbt):
    shutil.copytree(saved, tmp_path / "other")
    path = folder / "8" / "state" / "_METADATA"
    metadata = json.loads(path.read_text())
    change(metadata, name.format(tmp=tmp_path))
    metadata["use_ocdbt"] = ocdbt
    path.write_text(json.dumps(metadata))
    file_digests.write(folder / "8")
    before = _files(tmp_path)
    with pytest.raises(WorkdirError, match="8 does not hold the state of this config"):
        _restore(folder)
    assert _files(tmp_path) == before


@pytest.mark.parametrize("shape", [[2**40], [10**6, 10**6], [99], []])
def test_an_array_of_another_shape_is_refused(folder, shape):
    """The largest ones would not fit into memory."""
    stored = {"driver": "ocdbt", "base": f"file://{folder}/8/state", "path": "params.kernel/"}
    spec = {"driver": "zarr", "kvstore": stored}
    shaped = {"shape": shape, "dtype": "<f4", "chunks": [100] * len(shape)}
    tensorstore.open(spec | {"metadata": shaped}, create=True, delete_existing=True).result()
    with pytest.raises(WorkdirError, match="8 does not hold the state of this config"):
        _restore(folder)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8])
def test_an_array_of_another_type_is_refused(folder, dtype):
    with pytest.raises(WorkdirError, match=r"params\.kernel is float32 there and \w+ here"):
        _restore(folder, dtype)


@pytest.mark.parametrize("versions", ["[1]", "1", "null", '"jax"', "{"])
def test_versions_that_are_none_are_named(folder, versions):
    (folder / "8" / "environment" / "metadata").write_text(versions)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(WorkdirError, match=f"{folder}/8"):
            _restore(folder)
