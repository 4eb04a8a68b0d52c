"""Prepared data with pseudonyms hold no name of a patient, file or folder of the source."""

import json
import os

import pytest

from input_pipeline.preparation import builder
from input_pipeline.preparation.pseudonyms import Pseudonyms
from input_pipeline.prepare import prepare
from input_pipeline.prepared import examples
from jax_pix2pix.errors import DataError
from tests.input_pipeline.conftest import data_config, read_split, write_slice
from tests.input_pipeline.pairs import write_pair

SPLITS = ("train", "validation", "test")
NAMES = ("Mustermann-Anna", "Doe-John", "Roe-Jane")
OPTIONS = {"stored_size": 16, "mask_resize": "nearest", "mask_values": (0, 1, 2)}


@pytest.fixture
def source(tmp_path):
    source = tmp_path / "St Mary Hospital"
    for name in NAMES:
        for index in (1, 2):
            write_slice(source, "train", "clean", name, index)
    write_slice(source, "test", "clean", "Last-Patient", 4)
    return source


@pytest.fixture
def table(tmp_path):
    return tmp_path / "secret" / "pseudonyms.json"


def _prepared(source, data_dir, table):
    os.makedirs(table.parent, exist_ok=True)
    options = OPTIONS | {"validation_fraction": 0.3}
    return prepare("lidc_masks", source, data_dir, pseudonyms=table, **options)


def test_no_name_is_in_any_file(source, tmp_path, table):
    (source / "train" / "Mustermann.txt").write_text("passed over")
    directory = _prepared(source, tmp_path / "data", table)
    everything = b"".join(
        os.fsencode(path) + (path.read_bytes() if path.is_file() else b"")
        for path in (tmp_path / "data").rglob("*")
    )
    for name in (*NAMES, "Last-Patient", "Mustermann", "St Mary", "slice_0001"):
        assert name.encode() not in everything, name
    known = json.loads(table.read_text("utf-8"))
    assert table.stat().st_mode & 0o777 == 0o600
    assert known["key"].encode() not in everything and known["sources"] == [str(source)]

    shown = {
        (example.patient, example.file_name)
        for split in SPLITS
        for example in examples(data_config(tmp_path / "data"), split)
    }
    assert len(shown) == 7 and {patient for patient, _ in shown} == known["patients"].keys()
    back = {
        (known["patients"][patient]["patient"], known["patients"][patient]["files"][file])
        for patient, file in shown
    }
    assert ("Doe-John", "train/clean/Doe-John_slice_0002.png") in back and len(back) == 7
    assert json.loads((directory / "preparation.json").read_text())["pseudonyms"]
    files = (directory / "files.csv").read_text().splitlines()
    (passed,) = [line.split(",")[0] for line in files if "passed over" in line]
    assert known["files"][passed] == "train/Mustermann.txt"


def test_one_file_gives_a_patient_one_pseudonym_everywhere(source, tmp_path, table):
    _prepared(source, tmp_path / "data", table)
    first = json.loads(table.read_text("utf-8"))
    _prepared(source, tmp_path / "other", table)
    assert json.loads(table.read_text("utf-8")) == first
    write_slice(source, "train", "clean", "New-One", 1)
    _prepared(source, tmp_path / "third", table)
    known = json.loads(table.read_text("utf-8"))
    assert known["key"] == first["key"] and len(known["patients"]) == 5
    assert first["patients"].items() <= known["patients"].items()


def test_the_split_is_that_of_the_true_names(source, tmp_path, table):
    _prepared(source, tmp_path / "data", table)
    prepare("lidc_masks", source, tmp_path / "plain", **OPTIONS, validation_fraction=0.3)
    known = json.loads(table.read_text("utf-8"))["patients"]
    for split in SPLITS:
        shown = [example.patient for example in examples(data_config(tmp_path / "data"), split)]
        plain = [example.patient for example in examples(data_config(tmp_path / "plain"), split)]
        assert [known[name]["patient"] for name in shown] == plain


def test_data_of_other_names_are_not_taken_for_these(source, tmp_path, table):
    _prepared(source, tmp_path / "data", table)
    assert _prepared(source, tmp_path / "data", table)  # already prepared
    with pytest.raises(DataError, match="was prepared with other pseudonyms: name the same file"):
        prepare("lidc_masks", source, tmp_path / "data", **OPTIONS, validation_fraction=0.3)
    with pytest.raises(DataError, match="was prepared with other pseudonyms"):
        _prepared(source, tmp_path / "data", table.with_name("other.json"))
    prepare("lidc_masks", source, tmp_path / "plain", **OPTIONS, validation_fraction=0.3)
    with pytest.raises(DataError, match="was prepared without pseudonyms"):
        _prepared(source, tmp_path / "plain", table)


def test_patients_are_chosen_by_true_names_and_stored_as_pseudonyms(
    source, tmp_path, table, capsys
):
    os.makedirs(table.parent)

    def chosen(data_dir, name):
        options = OPTIONS | {"test_patients": name}
        return prepare("lidc_masks", source, data_dir, pseudonyms=table, **options)

    directory = chosen(tmp_path / "data", "Doe-John")
    pseudonym = Pseudonyms(table).patient("Doe-John")
    out = capsys.readouterr().out
    assert f"train with --config.data.test_patients={pseudonym}" in out and "Doe" not in out
    fields = {"validation_fraction": 0.1, "test_patients": pseudonym}
    data = data_config(tmp_path / "data", **fields)
    assert {example.patient for example in examples(data, "test")} == {pseudonym}
    record = json.loads((directory / "preparation.json").read_text())
    assert record["options"]["test_patients"] == pseudonym
    assert chosen(tmp_path / "data", pseudonym) == directory  # as the manifest shows it
    with pytest.raises(DataError, match="no patient Doe-Jon, but Doe-John"):
        chosen(tmp_path / "data", "Doe-Jon")


def test_notes_name_pseudonyms(table):
    table.parent.mkdir()
    names = Pseudonyms(table)
    note = builder.note_oblique([("Doe-John", 12.3)])
    assert note(str).endswith("axes: Doe-John (12 degrees)")
    assert note(names.patient) == note(str).replace("Doe-John", names.patient("Doe-John"))


def test_a_class_that_is_a_folder_may_be_a_patient(tmp_path, table):
    source = tmp_path / "source"
    for seed, place in enumerate(("brain/Doe-John", "Roe-Jane/MR and CT", "Roe-Jane/Mustermann")):
        write_pair(source / place, seed)
    (tmp_path / "secret").mkdir()
    directory = prepare("mri_ct", source, tmp_path / "data", pseudonyms=table, stored_size=8)
    everything = b"".join(path.read_bytes() for path in directory.iterdir())
    for name in ("Doe-John", "Roe-Jane", "MR and CT", "Mustermann", str(tmp_path)):
        assert name.encode() not in everything, name
    ((pseudonym, name),) = json.loads(table.read_text("utf-8"))["classes"].items()
    assert name == "Roe-Jane"
    classes = {record["class"] for split in SPLITS for record in read_split(directory, split)}
    assert classes == {"brain", pseudonym}


def test_the_file_stays_where_a_link_leads(source, tmp_path, table):
    table.parent.mkdir()
    (tmp_path / "link").symlink_to(table)
    _prepared(source, tmp_path / "data", tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and table.stat().st_mode & 0o777 == 0o600
    (tmp_path / "outside").symlink_to(tmp_path / "data" / "names")
    with pytest.raises(DataError, match="keep the key apart from the data"):
        Pseudonyms(tmp_path / "outside", tmp_path / "data")
    with pytest.raises(DataError, match=r"nowhere/x: there is no folder .*nowhere: make it first"):
        Pseudonyms(tmp_path / "nowhere" / "x")


@pytest.mark.parametrize("where", ["data/names.json", "St Mary Hospital/names.json"])
def test_the_key_lies_apart_from_the_data(source, tmp_path, where):
    with pytest.raises(DataError, match="keep the key apart from the data"):
        _prepared(source, tmp_path / "data", tmp_path / where)


@pytest.mark.parametrize(
    ("content", "mode", "refusal"),
    [
        ("{}", 0o600, "cannot be read as a file of pseudonyms"),
        ('{"key": "ab", "patients": {}, "sources": []}', 0o600, "the key is short"),
        (json.dumps({"key": "ab" * 32, "patients": {}, "sources": []}), 0o644, "chmod 600"),
    ],
)
def test_a_file_that_is_no_key_is_refused(table, content, mode, refusal):
    table.parent.mkdir()
    table.write_text(content, encoding="utf-8")
    table.chmod(mode)
    with pytest.raises(DataError, match=refusal):
        Pseudonyms(table)
