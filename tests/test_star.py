"""STAR files: read as they were meant, written so that every reader gets them back."""

import numpy as np
import pandas as pd
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st

from scipion_faml import star

TABLE = """\
# a comment
data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
1 o1

data_particles

loop_
_rlnTomoName #1
_rlnCoordinateX #2
_rlnClassNumber #3
_note #4
01 1.5 1 'two words'   # where it was
tomo#2 nan 2 "it's"
"""


def test_numbers_are_numbers_and_names_stay_names():
    rows = star.parse(TABLE)["particles"]
    assert rows["rlnTomoName"].tolist() == ["01", "tomo#2"]
    np.testing.assert_array_equal(rows["rlnCoordinateX"], [1.5, np.nan])
    assert rows["rlnClassNumber"].dtype.kind == "i"
    assert rows["note"].tolist() == ["two words", "it's"]


def test_a_row_may_begin_with_the_letters_of_a_block():
    rows = star.parse("data_\nloop_\n_rlnImageName\n_x\ndata_1/a.mrc 1\ndata_2/a.mrc 2\n")[""]
    assert rows["rlnImageName"].tolist() == ["data_1/a.mrc", "data_2/a.mrc"]


@pytest.mark.parametrize(("text", "message"), [
    ("data_a\nloop_\n_x\n_y\n1 2\n1\n", "line 6: 1 values in a table of 2 columns"),
    ("data_a\nloop_\n_x\n_y\n1 2 3\n", "line 5: 3 values in a table of 2 columns"),
    ("data_a\nloop_\n_x\n_x\n1 2\n", "line 4: a second x"),
    ("data_a\n\ndata_a\n", "line 3: a second block data_a"),
    ("data_a\nloop_\n_x\n1\nloop_\n_y\n2\n", "line 5: a second table"),
    ("1 2 3\n", "line 1: text before any data_ block"),
    ("data_a\n_x 1 2\n", "line 2: 2 values of x"),
    ("data_a\nx\n", "line 2: values that belong to no column"),
])
def test_what_is_ambiguous_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "a.star").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        star.read(tmp_path / "a.star")
    assert str(tmp_path / "a.star") in str(caught.value)


@pytest.mark.parametrize("content", [b"data_\n\x00", b"data_\n_x \xff\xfe\n"])
def test_bytes_that_are_no_text_are_refused(tmp_path, content):
    (tmp_path / "a.star").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.star is not a readable STAR file"):
        star.read(tmp_path / "a.star")


texts = st.text(st.characters(blacklist_categories=("Cs",)), max_size=8)
tables = st.lists(st.tuples(texts, st.floats(-1e6, 1e6), st.integers(-2**62, 2**62)), min_size=1,
                  max_size=5)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(rows=tables)
def test_every_text_comes_back_or_is_refused(rows):
    table = pd.DataFrame(rows, columns=["anyName", "value", "count"])
    try:
        text = star.text_of({"particles": table})
    except ValueError as error:
        assert "cannot be written into a STAR file" in str(error)
        assert any(set(name) & set("\n\r\0'\"") for name, *_ in rows)
        return
    back = star.parse(text)["particles"]
    assert back["anyName"].tolist() == [name for name, *_ in rows]
    np.testing.assert_allclose(back["value"], table["value"], rtol=1e-8, atol=1e-6)
    assert back["count"].tolist() == table["count"].tolist()


def test_the_package_starfile_reads_what_is_written(tmp_path):
    table = pd.DataFrame({"rlnImageName": ["a/b.mrc", "with blanks.mrc"], "x": [1.5, -2e-9],
                          "n": [1, 2]})
    star.write(tmp_path / "a.star", {"particles": table, "optics": {"rlnOpticsGroup": 1}}, "ours")
    blocks = starfile.read(tmp_path / "a.star", always_dict=True)
    pd.testing.assert_frame_equal(
        pd.DataFrame(blocks["particles"]), table, check_dtype=False, check_names=False)
    assert blocks["optics"] == {"rlnOpticsGroup": 1}


def test_the_same_table_gives_the_same_bytes(tmp_path):
    table = {"particles": pd.DataFrame({"x": [1.0]})}
    star.write(tmp_path / "a.star", table)
    star.write(tmp_path / "b.star", table)
    assert (tmp_path / "a.star").read_bytes() == (tmp_path / "b.star").read_bytes()
