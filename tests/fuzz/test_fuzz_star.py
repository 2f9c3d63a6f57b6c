"""Particle tables that are damaged, incomplete or hostile: used, or refused in one line."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fuzz.builders import (
    HOSTILE_TEXTS,
    folder,
    hostile_floats,
    hostile_texts,
    optics,
    particles,
    picks,
    tomogram,
    weight_file,
    write_table,
)
from fuzz.harness import call, cases, check_nobody_lost, check_reader, check_written
from hypothesis import given
from hypothesis import strategies as st

from scipion_faml import star
from scipion_faml.sources import open_source
from scipion_faml.tables import read_particles

pytestmark = pytest.mark.fuzz
COLUMNS = ["rlnImageName", "rlnTomoName", "rlnOpticsGroup", "rlnCoordinateX", "rlnAngleRot",
           "rlnAngleTilt", "rlnOriginXAngst", "rlnClassNumber", "rlnRandomSubset", "rlnCtfImage",
           "famlScore", "rlnTomoParticleId", "rlnMaxValueProbDistribution", "anything"]
OPTICS = ["rlnOpticsGroup", "rlnImagePixelSize", "rlnImageSize", "famlTiltMin", "famlTiltMax",
          "rlnTomoTiltSeriesPixelSize"]
values = st.one_of(hostile_floats, hostile_texts, st.sampled_from([1, 2, "1", "p1.mrc", "t1"]),
                   st.integers(-10**20, 10**20))


def _text(value):
    """A value as other programs write it, quoted only if it must be."""
    text = repr(value) if isinstance(value, float) else str(value)
    try:
        return star._quoted(text)
    except ValueError:
        return "x"


def _table_text(blocks):
    """STAR text with every value as it is, also where writers would refuse it."""
    lines = []
    for name, block in blocks:
        lines += ["", f"data_{name}", "", "loop_", *(f"_{c}" for c in block.columns)]
        lines += [" ".join(_text(v) for v in row) for row in block.astype(object).to_numpy()]
    return "\n".join(lines) + "\n"


@st.composite
def edits(draw):
    """How a table is spoilt: a list of (what, column, row, value)."""
    kinds = st.sampled_from(["value", "value", "value", "column", "drop", "optics", "optics",
                             "optics drop", "repeat row", "drop rows", "group", "text"])
    return draw(st.lists(st.tuples(
        kinds, st.integers(0, 30), st.integers(0, 5), values), min_size=1, max_size=4))


def _spoil(rows, groups, changes):
    """Apply edits to the rows and the optics; return both and how to spoil the text."""
    rows, groups, text_edits = rows.astype(object), groups.astype(object), []
    for kind, column, row, value in changes:
        name, group_name = COLUMNS[column % len(COLUMNS)], OPTICS[column % len(OPTICS)]
        if kind == "value" and len(rows):
            if name not in rows:
                rows[name] = 1
            column_values = rows[name].tolist()
            column_values[row % len(rows)] = value
            rows[name] = pd.Series(column_values, index=rows.index, dtype=object)
        elif kind == "column":
            rows[name] = value
        elif kind == "drop" and name in rows:
            rows = rows.drop(columns=name)
        elif kind == "optics" and len(groups):
            groups[group_name] = value
        elif kind == "optics drop" and group_name in groups:
            groups = groups.drop(columns=group_name)
        elif kind == "repeat row" and len(rows):
            rows = pd.concat([rows, rows.iloc[[row % len(rows)]]], ignore_index=True)
        elif kind == "drop rows":
            rows = rows.iloc[: row]
        elif kind == "group":
            second = groups.assign(**{group_name: value}) if group_name in groups else groups
            groups = pd.concat([groups, second], ignore_index=True)
        else:
            text_edits.append((column, str(value)))
    return rows, groups, text_edits


def _spoil_text(text, text_edits):
    """Cut, double or change lines."""
    lines = text.split("\n")
    for where, value in text_edits:
        at = where * 7 % len(lines)
        action = where % 5
        if action == 0:
            lines = lines[:at]
        elif action == 1:
            lines.insert(at, lines[at])
        elif action == 2:
            lines[at] = value
        elif action == 3:
            lines[at] = lines[at][: len(lines[at]) // 2]
        else:
            lines[at] = f"{lines[at]} {value}"
        lines = lines or [""]
    return "\n".join(lines)


def spoilt_table(where, changes, count=4):
    """A table in a folder, spoilt; None where the text cannot be written as UTF-8."""
    path, rows = particles(where, count)
    rows, groups, text_edits = _spoil(rows, optics(), changes)
    blocks = [("optics", groups)] if len(groups.columns) else []
    text = _spoil_text(_table_text([*blocks, ("particles", rows)]), text_edits)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


@cases(1500)
@given(changes=edits())
def test_tables_that_are_read(changes):
    def use(path):
        table = read_particles(path)
        assert len(table.tomogram_names) == len(table)
        source = open_source(table)
        assert len(source) == len(table)
        poses = table.poses
        assert np.isfinite(poses.shift_xyz).all() and np.isfinite(poses.euler_zyz).all()
        assert table.class_index.min() >= 0 if "rlnClassNumber" in table.rows else True
        return len(table)

    with folder() as where:
        path = spoilt_table(where, changes)
        check_reader(lambda: use(path), str(path))


@cases(1200)
@given(content=st.one_of(
    st.binary(max_size=200), st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")),
    st.lists(st.sampled_from([
        "data_particles", "data_optics", "data_", "loop_", "_rlnImageName #1", "_rlnOpticsGroup",
        "p1.mrc", "1 2", "# c", "", "'", '"a b"', "_x 1", ";", "data_particles "]),
        max_size=14).map(lambda lines: "\n".join(lines).encode())))
def test_text_that_is_hardly_a_table(content):
    with folder() as where:
        path = where / "particles.star"
        path.write_bytes(content)
        check_reader(lambda: open_source(read_particles(path)), str(path))


def _verb(where, verb, star_file):
    good, out = where / "p1.mrc", ["--output", where / "out", "--workers", 1]
    truth = where / "truth.star"
    if verb.startswith("evaluate") or verb == "compare-runs":
        clean, _ = particles(where / "clean", 4)
        truth = clean
    return {
        "average": ["average", star_file, *out],
        "average --skip-bad": ["average", star_file, "--skip-bad", *out],
        "align": ["align", star_file, "--reference", good, "--search", "magnitude", *out],
        "align --skip-bad": ["align", star_file, "--reference", good, "--search", "magnitude",
                             "--skip-bad", *out],
        "classify": ["classify", star_file, "--mode", "paper", "--iterations", 1, *out],
        "classify --skip-bad": ["classify", star_file, "--mode", "paper", "--iterations", 1,
                                "--skip-bad", *out],
        "evaluate-poses": ["evaluate-poses", star_file, "--truth", truth],
        "evaluate-poses by position": ["evaluate-poses", star_file, "--truth", truth, "--radius",
                                       50],
        "evaluate-classes": ["evaluate-classes", truth, "--truth", star_file],
        "evaluate-picks": ["evaluate-picks", star_file, "--truth", truth, "--radius", 50],
        "evaluate-orientations": ["evaluate-orientations", star_file],
        "estimate-snr": ["estimate-snr", star_file, "--workers", 1],
        "export relion": ["export-particles", star_file, "--format", "relion3", *out[:2]],
        "export relion5": ["export-particles", star_file, "--format", "relion4", *out[:2]],
        "export dynamo": ["export-particles", star_file, "--format", "dynamo", *out[:2]],
        "export motl": ["export-particles", star_file, "--format", "motl", *out[:2]],
        "export eman": ["export-particles", star_file, "--format", "eman", *out[:2]],
        "export peet": ["export-particles", star_file, "--format", "peet", *out[:2]],
        "import": ["import-particles", star_file, *out[:2]],
        "extract": ["extract", tomogram(where / "t1.mrc"), star_file, "--box", 8, *out],
    }[verb]


VERBS = ["average", "average --skip-bad", "align", "align --skip-bad", "classify",
         "classify --skip-bad", "evaluate-poses", "evaluate-poses by position", "evaluate-classes",
         "evaluate-picks", "evaluate-orientations", "estimate-snr", "export relion",
         "export relion5", "export dynamo", "export motl", "export eman", "export peet", "import",
         "extract"]


POSE = {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst",
        "rlnOriginZAngst", "rlnMaxValueProbDistribution", "rlnClassNumber"}
SET_BY = {"align": POSE, "classify": POSE, "extract": {"rlnOriginXAngst"},
          "export-particles": POSE, "import-particles": POSE}


def _before(path):
    """How many particles a table has, and columns with values that are no numbers."""
    try:
        table = read_particles(path)
    except (ValueError, OSError):
        return None, frozenset()
    bad = [name for part in (table.rows, table.optics) for name in part.columns
           if part[name].dtype.kind == "f" and not np.isfinite(part[name]).all()]
    return len(table), frozenset(bad)


@cases(2000, at_least=60)
@given(changes=edits(), verb=st.sampled_from(VERBS))
def test_verbs(changes, verb):
    with folder() as where:
        (where / "clean").mkdir()
        path = spoilt_table(where, changes)
        n_in, given_bad = _before(path)
        done = call(*_verb(where, verb, path))
        if done.status != 0:
            return
        if (where / "out").is_dir():
            check_written(where / "out", given_bad - SET_BY.get(verb.split()[0], set()))
        result = done.result
        if "particles" in result and verb.split()[0] in ("average", "align", "classify"):
            check_nobody_lost(result, n_in, where / "out")
        if verb == "extract":
            assert result["n_particles"] + result["n_dropped"] + result[
                "n_in_other_tomograms"] == n_in
        if verb.startswith("export") or verb == "import":
            assert result["n_particles"] == n_in


@cases(150)
@given(name=st.one_of(st.sampled_from(HOSTILE_TEXTS), st.text(min_size=1, max_size=20)),
       column=st.sampled_from(["rlnTomoName", "famlModel", "anything", "rlnOpticsGroupName"]))
def test_hostile_names_stay_what_they_are(name, column):
    """Text that nobody looks at comes through verbs letter by letter."""
    with folder() as where:
        path, rows = particles(where, 3)
        try:
            write = star.text_of({"optics": optics(), "particles": rows.assign(**{column: name})})
            path.write_bytes(write.encode())
        except (ValueError, UnicodeEncodeError):
            return
        done = call("align", path, "--reference", where / "p1.mrc", "--search", "magnitude",
                    "--output", where / "out", "--workers", 1)
        assert (done.status == 0) == ("\0" not in name)
        if done.status:
            return
        back = star.read(where / "out" / "particles.star")["particles"]
        before = star.read(path)["particles"]
        assert back[column].astype(str).tolist() == before[column].astype(str).tolist()


@cases(300)
@given(x=hostile_floats, y=hostile_floats, z=hostile_floats, pad=st.booleans(),
       box=st.sampled_from([8, 9, 15, 16, 40]), binning=st.sampled_from([1, 2, 3]))
def test_picks_anywhere(x, y, z, pad, box, binning):
    with folder() as where:
        table = picks(where / "t1.star")
        rows = star.read(table)["particles"]
        rows["rlnCoordinateX"] = [x, 16.0, 1.0]
        rows["rlnCoordinateY"] = [y, 16.0, 2.0]
        rows["rlnCoordinateZ"] = [z, 8.0, 3.0]
        write_table(table, rows)
        done = call("extract", tomogram(where / "t1.mrc", (16, 32, 32)), table, "--box", box,
                    "--bin", binning, "--output", where / "out", "--workers", 1,
                    *(["--pad"] if pad else []))
        if done.status == 0:
            check_written(where / "out")
            result = done.result
            assert result["n_particles"] + result["n_dropped"] == 3


@cases(250)
@given(low=hostile_floats, high=hostile_floats, verb=st.sampled_from(["average", "align"]),
       bad=st.booleans())
def test_tilt_ranges(low, high, verb, bad):
    with folder() as where:
        _, rows = particles(where, 3)
        groups = optics(famlTiltMin=low, famlTiltMax=high)
        path = write_table(where / "particles.star", rows, groups)
        more = ["--reference", where / "p1.mrc", "--search", "magnitude"] if verb == "align" else []
        done = call(verb, path, *more, "--output", where / "out", "--workers", 1,
                    *(["--skip-bad"] if bad else []))
        if done.status == 0:
            check_written(where / "out")
            check_nobody_lost(done.result, 3, where / "out")


@cases(120)
@given(content=st.sampled_from(["good", "missing", "empty", "other box", "particle", "same"]),
       rows=st.sets(st.integers(0, 3), min_size=1), bad=st.booleans())
def test_weight_volumes(content, rows, bad):
    from scipion_faml.io import write_volume

    with folder() as where:
        _, table = particles(where, 4)
        good = weight_file(where / "w.mrc")
        spoilt = where / "bad.mrc"
        if content == "other box":
            weight_file(spoilt, 12)
        elif content == "particle":
            write_volume(spoilt, np.random.default_rng(0).normal(0, 3, (10,) * 3), 12.0)
        elif content == "empty":
            spoilt.write_bytes(b"")
        elif content == "good":
            weight_file(spoilt)
        names = [("w.mrc" if i not in rows or content == "same" else "bad.mrc") for i in range(4)]
        path = write_table(where / "particles.star", table.assign(rlnCtfImage=names))
        done = call("average", path, "--output", where / "out", "--workers", 1,
                    *(["--skip-bad"] if bad else []))
        if content in ("good", "same"):
            assert done.status == 0 and good.is_file()
        if done.status == 0:
            check_written(where / "out")
            check_nobody_lost(done.result, 4, where / "out")
            assert done.result["particles"] == (4 if content in ("good", "same") else 4 - len(rows))
