"""Text from elsewhere is shown on one line, without effects on what shows it."""

import io
import logging

import numpy as np
import pytest

from input_pipeline.preparation.source_folder import SourceFolder
from input_pipeline.preparation.tables import read_table
from jax_pix2pix.errors import DataError
from jax_pix2pix.evaluation.mask_pairs import find_pairs
from jax_pix2pix.imaging.formats import dicom
from jax_pix2pix.imaging.pictures import grid
from jax_pix2pix.inference import inputs
from jax_pix2pix.logs import messages, process_log
from jax_pix2pix.metrics.mask_scores import table_of
from jax_pix2pix.safety.shown import ShownStream, check_name, code, is_plain, shown, shown_lines

BYTES = b"\xff".decode(errors="surrogateescape")
HOSTILE = f"a\x1b[2J\r\nb\x9b\u202ec\u2028{BYTES}\ud83d"
SEEN = r"a\x1b[2J\r\nb\x9b\u202ec\u2028\xff\ud83d"


@pytest.mark.parametrize(
    "text",
    [
        "Müller, 中村 \U0001f600",
        "a\\b 'c' \"d\"",
        "नमस्ते",
        "\u0645\u06cc\u200c\u062e",
        "\U0001f469\u200d\U0001f52c",
        "",
    ],
)
def test_ordinary_text_stays(text):
    assert shown(text) == shown_lines(text) == text and is_plain(text)
    check_name(text)


def test_what_acts_is_an_escape():
    assert shown(HOSTILE) == SEEN
    assert shown(HOSTILE).isprintable()
    assert shown_lines("a\tb\nc\x1bd") == "a\tb\nc\\x1bd"
    assert shown("Doe\u200b \ufeffJ\u200do\xadhn\U000e0041") == (
        r"Doe\u200b \ufeffJ\u200do\xadhn\U000e0041"
    )
    with pytest.raises(DataError, match=r"scan\\x1b.nii: a name with control characters"):
        check_name("scan\x1b.nii")


def test_a_stream_shows_all_but_a_progress_bars_return():
    bytes_written = io.BytesIO()
    stream = ShownStream(io.TextIOWrapper(bytes_written, encoding="utf-8", newline=""))
    print(HOSTILE, file=stream)
    print("\r 50%|█", end="", file=stream, flush=True)
    seen = bytes_written.getvalue().decode()
    assert seen == SEEN.replace(r"\r\n", "\r\n") + "\n\r 50%|█"
    assert stream.encoding == "utf-8"


def test_messages_and_the_log_of_a_process(capsys, tmp_path):
    # Not by the logger: pytest keeps its messages, and xdist cannot send surrogates.
    record = logging.LogRecord("x", logging.WARNING, "", 0, "file %s", (HOSTILE,), None)
    messages._terminal.emit(record)
    assert capsys.readouterr().err == f"warning: file {SEEN}\n"
    record = logging.LogRecord("x", logging.ERROR, "", 0, "%s", (HOSTILE,), None)
    handler = process_log._File(tmp_path, tmp_path / "log")
    handler.setFormatter(process_log._OneLine("now %(levelname)s %(message)s"))
    handler.emit(record)
    assert (tmp_path / "log").read_text(encoding="utf-8") == f"now ERROR {SEEN}\n"


def test_tables_and_pictures_keep_names_on_their_lines():
    score = {"dice": {"mean": 1.0, "interval_95": None, "cases": 1, "undefined": 0}}
    assert len(table_of(HOSTILE, {HOSTILE: score}).splitlines()) == 2
    image = np.zeros((4, 4))
    line, lines = (np.asarray(grid([[image]], ["a"], [label], 160)) for label in ("a\\nb", "a\nb"))
    np.testing.assert_array_equal(line, lines)


@pytest.mark.parametrize(
    ("text", "markdown"), [("a", "`a`"), ("a`b", "`` a`b ``"), ("\n", r"`\n`")]
)
def test_code_in_markdown_ends_where_it_ends(text, markdown):
    assert code(text) == markdown


def _prepare(folder, name):
    (entry,) = SourceFolder(folder).entries(folder)
    SourceFolder(folder).add(entry)


READERS = {  # by the ending of a file that they take
    "prepare": (_prepare, "nii"),
    "find": (lambda folder, name: inputs.xray_pictures(folder, folder / "out"), "png"),
    "masks": (lambda folder, name: inputs.label_masks(folder, folder / "out"), "npy"),
    "pairs": (lambda folder, name: find_pairs(folder, folder), "png"),
    "dicom": (lambda folder, name: dicom.read_series(folder), "dcm"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", [f"a{BYTES}", "a\x1b[31m", "a\u200bb"])
def test_a_file_that_cannot_be_named_is_refused_by_its_name(tmp_path, reader, name):
    read, ending = READERS[reader]
    path = tmp_path / f"{name}.{ending}"
    path.write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(DataError) as caught:
        read(tmp_path, name)
    assert str(caught.value).startswith(f"{tmp_path}/{shown(name)}.{ending}: a name with control")
    assert str(caught.value).isascii()


@pytest.mark.parametrize("text", ["b\nc", "b\0", "b\x1b[2J", "b\u202e"])
def test_a_table_of_users_holds_no_control_characters(tmp_path, text):
    table = tmp_path / "patients.csv"
    table.write_text(f'seriesuid,patient\n1,a\n2,"{text}"\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"in line 3 that is no text|cannot be read as a table"):
        read_table(table, ("seriesuid", "patient"), "x")
