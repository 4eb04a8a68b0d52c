"""A checkpoint's own metadata decides neither what is opened nor what is allocated."""

import http.server
import json
import os
import shutil
import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from jax_pix2pix.errors import WorkdirError
from jax_pix2pix.runs import file_digests, stored_state
from jax_pix2pix.runs.checkpoint import Checkpoints
from jax_pix2pix.safety import safe_files
from tests import peak_memory
from tests.faults import forged_index

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
    checkpoints = Checkpoints(folder, "ssim", read_only=True)
    checkpoints.check_sound(checkpoints.resolve("best"))
    return checkpoints.restore(8, _abstract(dtype))


def _abstract(dtype=jnp.float32):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {"params": {"kernel": jax.ShapeDtypeStruct((100,), dtype, sharding=place)}}


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


def _values(folder):
    """The arrays of a checkpoint as TensorStore's key-value store, to be changed."""
    base = f"file://{folder}/8/state"
    return tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()


def _stored_otherwise(folder, **fields):
    values = _values(folder)
    metadata = json.loads(values["params.kernel/.zarray"]) | fields
    values["params.kernel/.zarray"] = json.dumps(metadata)


def _refusal(folder):
    """The error when it is restored, after a check that no memory was taken for it."""

    def restore():
        with pytest.raises(WorkdirError) as caught:
            _restore(folder)
        errors.append(str(caught.value))

    errors = []
    assert peak_memory.megabytes(restore) < 60
    assert "\n" not in errors[0] and len(errors[0]) < 1000
    return errors[0]


def test_a_chunk_larger_than_its_array_is_not_unpacked(folder):
    _stored_otherwise(folder, chunks=[5 * 10**7])
    _values(folder)["params.kernel/0"] = forged_index.zstd(b"", 2 * 10**8)
    assert "params.kernel has chunks of [50000000], which do not fit its shape [100]" in _refusal(
        folder
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}},
        {"compressor": [1]},
        {"filters": [{"id": "delta"}]},
        {"dtype": "|V99999999"},
        {"dtype": [["a", "<f4", [10**6]]]},
        {"fill_value": 1.0},
        {"order": "F"},
        {"chunks": [10]},  # more than there may be
        {"chunks": [0]},
        {"chunks": [True]},
        {"chunks": 100},
        {"attributes": "x" * stored_state.MAX_ZARRAY},
    ],
)
def test_an_array_that_is_stored_otherwise_is_named(folder, monkeypatch, fields):
    monkeypatch.setattr(stored_state, "MAX_CHUNKS", 9)
    _stored_otherwise(folder, **fields)
    assert "params.kernel" in _refusal(folder)


def test_an_array_that_is_not_there_is_named(folder):
    _values(folder).delete_range(tensorstore.KvStore.KeyRange("p", "q")).result()
    assert "params.kernel is not there" in _refusal(folder)


def test_a_chunk_of_many_bytes_is_not_read(folder):
    _values(folder)["params.kernel/0"] = os.urandom(10**7)
    assert "params.kernel/0 has more than" in _refusal(folder)


def test_an_index_of_kilobytes_that_unpacks_to_gigabytes_is_not_read(folder):
    keys = [f"{number:08d}" for number in range(300)]
    index = forged_index.leaf(keys, [2**20] * 300, zeros=300 * 2**20)
    assert len(index) < 20_000
    forged_index.replace(folder / "8" / "state", index)
    assert "8/state/d/node has an index at byte 0 that is not as it" in _refusal(folder)


@pytest.mark.parametrize("place", ["http", "up", "absolute", "inside"])
def test_no_index_leads_to_another_machine_or_folder(folder, tmp_path, place):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    values = _values(folder)
    contents = [values["params.kernel/.zarray"], values["params.kernel/0"]]
    state = folder / "8" / "state"
    for path in (tmp_path / "outside", state / "inside"):
        path.write_bytes(b"".join(contents))
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for base in (True, False):
        name = {
            "http": f"http://127.0.0.1:{server.server_port}/kernel",
            "up": "../../../../outside",
            "absolute": str(tmp_path / "outside"),
            "inside": "inside",
        }[place]
        split = ("", name) if base else (os.path.dirname(name) + "/", os.path.basename(name))
        split = ("", name) if place == "inside" else split
        keys = ["params.kernel/.zarray", "params.kernel/0"]
        index = forged_index.leaf(keys, list(map(len, contents)), *split)
        forged_index.replace(state, index)
        if place == "inside":  # shows that such an index is read
            np.testing.assert_array_equal(_restore(folder)["params"]["kernel"], np.arange(100))
        else:
            assert "Invalid key" in _refusal(folder)
    server.shutdown()
    server.server_close()
    assert not asked


@pytest.mark.parametrize("fields", [{"use_ocdbt": False}, {"use_zarr3": True}, {"use_zarr3": None}])
def test_another_form_of_storage_is_refused(folder, fields):
    path = folder / "8" / "state" / "_METADATA"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    assert "8/state/_METADATA does not say use_" in _refusal(folder)


@pytest.mark.parametrize(
    "name",
    [
        "state/_METADATA", "state/_sharding", "state/array_metadatas/process_0",
        "environment/metadata", "metrics/metrics", "_CHECKPOINT_METADATA", "digests.json",
    ],
)  # fmt: skip
@pytest.mark.parametrize("content", ["giant", "nested"])
def test_a_description_that_takes_all_memory_or_all_of_the_stack_is_named(folder, name, content):
    path = folder / "8" / name
    text = "[" * 200_000 if content == "nested" else f"[{'[],' * (safe_files.MAX_JSON // 3)}[]]"
    file_digests.write(folder / "8")
    path.write_text(text)
    if name != file_digests.NAME:
        file_digests.write(folder / "8")

    def read():
        for read_only in (True, False):
            with pytest.raises(WorkdirError, match=f"{folder}/8|checkpoints are damaged"):
                checkpoints = Checkpoints(folder, "ssim", read_only=read_only)
                checkpoints.check_sound(8)
                checkpoints.restore(8, _abstract())

    assert peak_memory.megabytes(read) < 60


def test_files_that_are_larger_than_the_state_are_not_read(folder):
    with (folder / "8" / "state" / "d" / "more").open("wb") as file:
        file.truncate(stored_state.SLACK + 1000)
    assert "its files have more than the 67109664 bytes that it needs" in _refusal(folder)


@pytest.mark.parametrize("kind", ["folder", "file", "pipe", "step"])
def test_links_and_pipes_are_named_before_anything_is_read(folder, tmp_path, kind):
    state = folder / "8" / "state"
    if kind == "pipe":
        os.mkfifo(state / "d" / "pipe")
        path, said = state / "d" / "pipe", "is no regular file"
    else:
        path = {"folder": state / "d", "file": state / "_METADATA", "step": folder / "8"}[kind]
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
        said = "is a link"
    checkpoints = Checkpoints(folder, "ssim", read_only=True)
    with pytest.raises(WorkdirError, match=f"step 8 is damaged: {path} {said}"):
        checkpoints.check_sound(8)
    if kind != "step":
        with pytest.raises(WorkdirError, match=f"{path} {said}"):
            checkpoints.restore(8, _abstract())
    with pytest.raises(WorkdirError, match="all 1 checkpoints are damaged"):
        Checkpoints(folder, "ssim")


def test_a_folder_of_checkpoints_that_is_a_link_is_refused(saved, tmp_path):
    (tmp_path / "checkpoints").symlink_to(saved)
    for read_only in (True, False):
        with pytest.raises(WorkdirError, match="checkpoints is a link"):
            Checkpoints(tmp_path / "checkpoints", "ssim", read_only=read_only)


def test_damaged_ones_are_moved_through_no_link(folder, tmp_path):
    (tmp_path / "outside").mkdir()
    (folder.parent / "damaged").symlink_to(tmp_path / "outside")
    (folder / "8" / "metrics" / "metrics").write_text("{}")
    with pytest.raises(safe_files.UnsafeFileError, match="damaged is a link"):
        Checkpoints(folder, "ssim")
    assert not list((tmp_path / "outside").iterdir())


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
