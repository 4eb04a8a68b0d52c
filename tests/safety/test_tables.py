"""CSV that spreadsheets run nothing of, and that gives names back as they were."""

import csv

import pytest

from jax_pix2pix.safety.tables import csv_text, records

FORMULAS = [
    '=HYPERLINK("http://example.com","a")', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\uff1d1",
    "'=1", "''=1", "-", " =1", "' =1", "=1\n=2",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_text(text):
    ((_, *_), (first, second)) = csv.reader(csv_text(["name", "mae"], [[text, -12.5]]).splitlines())
    assert first.startswith("'") and second == "-12.5"


@pytest.mark.parametrize("text", ["a;=1", "a; @x;;' -2", ";=1;=2", "a;b"])
def test_nor_are_there_formulas_where_cells_end_at_a_semicolon(text):
    line = csv_text(["mae", "name"], [[-12.5, text]]).splitlines()[1]
    assert not any(part.strip().startswith(tuple("=+@-")) for part in line.split(";")[1:])
    assert next(records(csv_text(["name"], [[text]]))) == {"name": text}


@pytest.mark.parametrize("value", [-12.5, "-12.5", "+3", "-1e-05", -7, "-.5", "nan", float("-inf")])
def test_numbers_stay_numbers(value):
    assert csv_text(["a"], [[value]]) == f"a\n{value}\n"


@pytest.mark.parametrize("text", [*FORMULAS[:-1], "'", "'a", "O'Neil", "Müller", 'a"b,c', ""])
def test_names_come_back(text):
    rows = [{"name": text, "n": 1}, {"n": None}]
    assert list(records(csv_text(["name", "n"], rows))) == [
        {"name": text, "n": "1"},
        {"name": "", "n": ""},
    ]


def test_control_characters_are_escapes():
    assert csv_text(["a"], [["x\x1b\ny"]]) == "a\nx\\x1b\\ny\n"


def test_a_cut_line_and_a_long_one_are_told_by_none():
    short, long = records("a,b\n1\n1,2,3\n")
    assert short == {"a": "1", "b": None} and long == {"a": "1", "b": "2", None: ["3"]}
