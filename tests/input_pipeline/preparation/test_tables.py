"""Tables of users: blanks about names and values, and lines by their own numbers."""

import pytest

from input_pipeline.preparation.tables import read_table
from jax_pix2pix.errors import DataError


def test_blanks_and_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(' patient , "source",ct\n\np1, "a, b.nii",c\n , ,\n  \np2,d,e\n')
    assert read_table(path, ("patient", "source"), "x") == [
        (3, {"patient": "p1", "source": "a, b.nii"}),
        (6, {"patient": "p2", "source": "d"}),
    ]
    path.write_text("patient,source\n\n\np1,\n")
    with pytest.raises(DataError, match=r"a.csv has no source in line 4: add it"):
        read_table(path, ("patient", "source"), "x")
