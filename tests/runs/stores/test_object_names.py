"""Objects of a store become files below a folder, or are refused."""

import pytest

from jax_pix2pix.errors import DataError
from jax_pix2pix.runs.stores import object_names

PLAIN = {"config.json": 3, "checkpoints/10/state/array": 5, "samples/é ü.png": 1}


def test_plain_names_stay_and_markers_of_folders_go():
    markers = {"": 7, "samples/": 0, "/": 0}
    assert object_names.checked("s3://b/run", PLAIN | markers) == PLAIN


@pytest.mark.parametrize(
    "name",
    [
        "/etc/x", "//x", "a//b", "../b", "c/../d", "..", "./a", "a/.", "a\\b", "..\\a", "C:/a",
        "c:a", "a\nb", "a\x00b", "a\x1b[2Jb", "a\x9bb", "a/",
    ],
)  # fmt: skip
def test_names_that_lead_out_of_a_folder_are_refused(name):
    with pytest.raises(DataError) as refused:
        object_names.checked("s3://b/run", PLAIN | {name: 1})
    text = str(refused.value)
    assert text.startswith(f"s3://b/run: the name {name!a} leads out of a folder or is not")
    assert text.endswith("delete that object, or download by hand what you need")


def test_names_that_no_file_system_takes_are_refused():
    longest = {"a" * 255: 1, "/".join(["é" * 127] * 4): 1}
    assert object_names.checked("s3://b/run", longest) == longest
    for name in ("a" * 256, f"a/{'é' * 128}/b"):
        with pytest.raises(DataError, match=r"run: the name '.{1,330}'\.\.\. is too long"):
            object_names.checked("s3://b/run", {name: 1})
    with pytest.raises(DataError, match="run: 'a/b' is an object, and 'a/b/c/d' needs a folder"):
        object_names.checked("s3://b/run", {"a/b/c/d": 1, "a/b": 1})


def test_many_objects_are_checked_at_once():
    many = {f"checkpoints/{i}/state/{i:06d}": 1 for i in range(20_000)}
    assert object_names.checked("s3://b/run", many) == many
