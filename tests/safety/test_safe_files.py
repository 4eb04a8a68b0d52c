"""Nothing outside of a folder is read or written through it."""

import os
import re
import shutil
import socket
import tempfile
import threading
from pathlib import Path

import pytest

from jax_pix2pix.safety import named_files, paths, safe_files
from jax_pix2pix.safety.safe_files import UnsafeFileError


@pytest.fixture
def outside(tmp_path):
    """A file that must stay as it is, and a folder to work in beside it."""
    (tmp_path / "outside").mkdir()
    path = tmp_path / "outside" / "victim"
    path.write_text("mine", encoding="utf-8")
    (tmp_path / "run").mkdir()
    yield path
    assert path.read_text("utf-8") == "mine"
    assert os.listdir(path.parent) == ["victim"]


WRITERS = {
    "write": lambda path, below: safe_files.write(path, "theirs", below),
    "append": lambda path, below: safe_files.open_to_append(path, below).write("theirs"),
    "lock": lambda path, below: safe_files.open_lock(path, below).truncate(0),
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("dangling", [False, True])
def test_no_link_is_written_through(tmp_path, outside, writer, dangling):
    target = outside.parent / "new" if dangling else outside
    path = tmp_path / "run" / "file"
    path.symlink_to(target)
    if writer is WRITERS["write"]:  # takes the place of the link
        writer(path, tmp_path / "run")
        assert path.read_text("utf-8") == "theirs" and not path.is_symlink()
    else:
        with pytest.raises(UnsafeFileError, match="file is a link"):
            writer(path, tmp_path / "run")


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_no_linked_folder_is_written_into(tmp_path, outside, writer):
    (tmp_path / "run" / "evaluation").symlink_to(outside.parent)
    with pytest.raises(UnsafeFileError, match="evaluation is a link"):
        writer(tmp_path / "run" / "evaluation" / "victim", tmp_path / "run")


def test_a_link_that_comes_meanwhile_is_not_followed(tmp_path, outside):
    """The folder is open while the file is written: another one at its name changes nothing."""
    folder = tmp_path / "run" / "evaluation"
    with safe_files.writing(folder / "victim", tmp_path / "run") as file:
        folder.rename(tmp_path / "moved")
        folder.symlink_to(outside.parent)
        file.write(b"theirs")
    assert (tmp_path / "moved" / "victim").read_text("utf-8") == "theirs"


@pytest.mark.parametrize("name", ["append", "lock"])
def test_a_hard_link_is_not_changed(tmp_path, outside, name):
    os.link(outside, tmp_path / "run" / "file")
    with pytest.raises(UnsafeFileError, match="hard link"):
        WRITERS[name](tmp_path / "run" / "file", tmp_path / "run")


def test_links_that_the_user_named_are_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    safe_files.write(tmp_path / "runs" / "a" / "x.json", "[1]", below=tmp_path / "runs")
    assert safe_files.read_json(tmp_path / "runs" / "a" / "x.json", tmp_path / "runs") == [1]
    (tmp_path / "mr.json").symlink_to(tmp_path / "disk" / "a" / "x.json")
    assert safe_files.read_json(tmp_path / "mr.json") == [1]
    with pytest.raises(UnsafeFileError, match=r"mr\.json is a link"):
        safe_files.read_json(tmp_path / "mr.json", below=tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "socket"])
@pytest.mark.parametrize("named", [False, True], ids=["in a folder", "named by the user"])
def test_only_regular_files_are_read(tmp_path, monkeypatch, kind, named):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    if kind == "pipe":
        os.mkfifo("x")
    elif kind == "device":
        os.symlink("/dev/zero", "x")
    elif kind == "folder":
        os.mkdir("x")
    else:
        socket.socket(socket.AF_UNIX).bind("x")
    refusal = "is a link" if kind == "device" and not named else "is no regular file"
    with pytest.raises(UnsafeFileError, match=refusal):
        safe_files.read("x", 10, None if named else ".")


def test_writing_to_a_pipe_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(UnsafeFileError, match="no regular file"):
        safe_files.open_lock(tmp_path / "lock", tmp_path)


def test_too_large_a_file_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert safe_files.read(tmp_path / "x", 5) == b"12345"
    with pytest.raises(UnsafeFileError, match="x is above the limit of 4 bytes"):
        safe_files.read(tmp_path / "x", 4)


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path):
    safe_files.write(tmp_path / "x", "old")
    with pytest.raises(KeyboardInterrupt), safe_files.writing(tmp_path / "x") as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["x"] and (tmp_path / "x").read_text("utf-8") == "old"


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_what_is_no_file_is_not_replaced(tmp_path, kind):
    path = tmp_path / "x"
    make = {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda x: os.symlink("/dev/null", x)}
    make[kind](path)
    with pytest.raises(UnsafeFileError, match="x is no regular file"):
        safe_files.write(path, "", tmp_path)
    with pytest.raises(UnsafeFileError, match="x is no regular file"):
        with safe_files.writing_by_name(path) as temporary:
            Path(temporary).touch()
    assert os.listdir(tmp_path) == ["x"]


def test_libraries_write_by_name(tmp_path, outside):
    path = tmp_path / "run" / "deep" / "x"
    with safe_files.writing_by_name(path, tmp_path / "run") as temporary:
        Path(temporary).write_text("old", encoding="utf-8")
        Path(temporary).with_name("voxels").touch()
    assert sorted(os.listdir(path.parent)) == ["voxels", "x"]
    with pytest.raises(KeyboardInterrupt), safe_files.writing_by_name(path) as temporary:
        Path(temporary).write_text("new", encoding="utf-8")
        raise KeyboardInterrupt
    assert sorted(os.listdir(path.parent)) == ["voxels", "x"]
    path.unlink()
    path.symlink_to(outside)
    with safe_files.writing_by_name(path) as temporary:
        Path(temporary).write_text("new", encoding="utf-8")
    assert path.read_text("utf-8") == "new" and not path.is_symlink()
    (tmp_path / "run" / "state").symlink_to(outside.parent)
    with pytest.raises(UnsafeFileError, match="state is a link"):
        with safe_files.writing_by_name(tmp_path / "run" / "state" / "x", tmp_path / "run"):
            pass


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names are all that there is")
def test_a_library_follows_no_link_that_comes_meanwhile(tmp_path):
    folder, theirs = tmp_path / "run", tmp_path / "theirs"
    with safe_files.writing_by_name(folder / "x", folder) as temporary:
        (hidden,) = os.listdir(folder)
        folder.rename(tmp_path / "moved")
        (theirs / hidden).mkdir(parents=True)
        folder.symlink_to(theirs)
        Path(temporary).touch()
    assert os.listdir(tmp_path / "moved") == ["x"]
    assert os.listdir(theirs) == [hidden] and not os.listdir(theirs / hidden)


def test_a_file_keeps_the_permissions_of_the_umask(tmp_path):
    safe_files.write(tmp_path / "x", "")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_file_that_the_user_named_stays_where_it_is_and_keeps_its_mode(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "scores").write_text("old", encoding="utf-8")
    (tmp_path / "disk" / "scores").chmod(0o640)
    (tmp_path / "link").symlink_to("disk/scores")
    safe_files.write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and os.listdir(tmp_path / "disk") == ["scores"]
    assert (tmp_path / "disk" / "scores").read_text("utf-8") == "new"
    with safe_files.writing_by_name(tmp_path / "disk" / "scores") as temporary:
        Path(temporary).write_text("by name", encoding="utf-8")
    assert (tmp_path / "disk" / "scores").stat().st_mode & 0o777 == 0o640


def test_a_pipe_that_the_user_named_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsafeFileError, match="pipe that nobody reads"):
        safe_files.write(tmp_path / "pipe", "x")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    named_files.check_output(tmp_path / "pipe")
    safe_files.write(tmp_path / "pipe", "scores")
    assert os.read(reader, 99) == b"scores"
    with (tmp_path / "file").open("w") as file:  # as `command > file` opens /dev/stdout
        os.write(file.fileno(), b"a table ")
        safe_files.write(f"/dev/fd/{file.fileno()}", "scores")
        os.write(file.fileno(), b" the end")
    assert (tmp_path / "file").read_text() == "a table scores the end"
    safe_files.write("/dev/null", "scores")
    assert os.path.exists("/dev/null")


def test_an_output_is_checked_before_the_work(tmp_path):
    (tmp_path / "folder").mkdir()
    for name, refusal in (("folder", "is no regular file"), ("no/x", "No such file or directory")):
        with pytest.raises(OSError, match=refusal):
            named_files.check_output(tmp_path / name)
    named_files.check_output(tmp_path / "folder" / "x")
    assert os.listdir(tmp_path / "folder") == []


def test_a_user_without_a_home_is_told():
    with pytest.raises(OSError, match=r"~nosuch/x: ~nosuch has no home folder here: write"):
        paths.expanded("~nosuch/x")
    assert paths.expanded("~/x") == os.path.expanduser("~/x")


def test_trees_with_links_or_pipes_are_refused(tmp_path):
    safe_files.make_folder(tmp_path / "a" / "b", tmp_path)
    safe_files.check_tree(tmp_path)
    os.mkfifo(tmp_path / "a" / "b" / "pipe")
    with pytest.raises(UnsafeFileError, match="pipe is no regular file"):
        safe_files.check_tree(tmp_path)
    (tmp_path / "a" / "b" / "pipe").unlink()
    (tmp_path / "a" / "state").symlink_to(tmp_path / "a")
    with pytest.raises(UnsafeFileError, match="state is a link"):
        safe_files.check_tree(tmp_path)
    safe_files.check_tree(tmp_path, apart=re.compile("a"))
    with pytest.raises(UnsafeFileError, match="state is a link"):
        safe_files.check_tree(tmp_path / "a" / "state" / "b", below=tmp_path)
    safe_files.check_tree(tmp_path / "a" / "state" / "b")


@pytest.fixture
def nobody():
    """A folder that a user without rights reads; root has all of them."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        root = os.geteuid() == 0
        try:
            yield Path(folder), lambda: os.seteuid(65534) if root else None
        finally:
            if root:
                os.seteuid(0)
            for path in Path(folder).iterdir():
                path.chmod(0o700)


def test_a_folder_that_cannot_be_entered_is_passed(nobody):
    tree, become = nobody
    (tree / "lost+found").mkdir(0o700)
    (tree / "hidden").mkdir()
    (tree / "lost+found").chmod(0)
    (tree / "hidden").chmod(0o711)  # names in it can be opened, and may be links
    become()
    with pytest.raises(PermissionError, match="hidden"):
        safe_files.check_tree(tree)
    with pytest.raises(PermissionError, match="lost"):
        safe_files.check_tree(tree / "lost+found")
    safe_files.check_tree(tree, apart=re.compile("hidden"))


def test_a_tree_that_changes_meanwhile_is_no_error(tmp_path):
    """Checkpoints are removed and renamed while a run trains."""
    done = threading.Event()

    def change():
        while not done.is_set():
            (tmp_path / "8.tmp" / "state").mkdir(parents=True)
            (tmp_path / "8.tmp" / "state" / "x").touch()
            (tmp_path / "8.tmp").rename(tmp_path / "8")
            shutil.rmtree(tmp_path / "8")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            safe_files.check_tree(tmp_path)
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/etc/passwd", "a//b", "a/", "a/../b", "../a", "a/./b", "C:/a", "a\\b", "a\nb",
     "a\x1b[31m", "a\x9bm", "a\0"],
)  # fmt: skip
def test_names_that_lead_out_of_a_folder_are_refused(name):
    with pytest.raises(ValueError, match="leads out of a folder"):
        safe_files.inside("/data", name)


def test_a_plain_name_is_below_the_folder():
    assert safe_files.inside("/data", "a b/ü.json") == "/data/a b/ü.json"
