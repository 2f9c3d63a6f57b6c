"""Other packages' files, damaged: imported whole, or refused in one line."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from fuzz.builders import HOSTILE_FLOATS, folder, particles
from fuzz.harness import call, cases, check_written
from hypothesis import given
from hypothesis import strategies as st

from scipion_faml import star

pytestmark = pytest.mark.fuzz
FILES = {"dynamo": "particles.tbl", "motl": "motl_1.em", "eman": "particle_parms_01.json",
         "peet": "t1_MOTL.csv", "relion3": "particles.star", "relion4": "particles.star",
         "relion5": "optimisation_set.star"}
FORMATS = sorted(FILES)


@cache
def exported(format_: str) -> Path:
    """A small table in a format."""
    where = Path(mkdtemp(prefix="faml-fuzz-exchange-"))
    table, _ = particles(where, 3)
    more = ["--tomograms", _tomograms(where)] if format_ == "relion5" else []
    done = call("export-particles", table, "--format", format_, "--output", where / "out", *more)
    assert done.status == 0, done.err
    return where


def _tomograms(where: Path) -> Path:
    path = where / "tomograms.star"
    path.write_text("data_global\n\nloop_\n_rlnTomoName\n_rlnTomoSizeX\n_rlnTomoSizeY\n"
                    "_rlnTomoSizeZ\n_rlnTomoTiltSeriesPixelSize\nt1 64 64 32 12.0\n")
    return path


@pytest.fixture(scope="module", autouse=True)
def removed():
    yield
    for format_ in FORMATS:
        shutil.rmtree(exported(format_), ignore_errors=True)
    exported.cache_clear()


def _file(where: Path, format_: str) -> Path:
    """The file that is imported."""
    named = where / "out" / FILES[format_]
    if named.is_file():
        return named
    suffix = Path(FILES[format_]).suffix
    return sorted(p for p in (where / "out").iterdir() if p.suffix == suffix)[0]


@st.composite
def changes(draw):
    """Ways to spoil a file: bytes, numbers or lines."""
    return draw(st.lists(st.tuples(
        st.sampled_from(["number", "number", "number", "line", "bytes", "cut", "gone"]),
        st.integers(0, 10**6),
        st.sampled_from([*map(repr, HOSTILE_FLOATS), "x", "", "1e400", "-1"]),
        st.binary(min_size=1, max_size=8)), min_size=1, max_size=3))


def _spoil(path: Path, kind: str, where: int, text: str, raw: bytes) -> None:
    content = path.read_bytes()
    at = where % (len(content) + 1)
    if kind == "gone":
        path.unlink()
        return
    if kind == "bytes":
        content = content[:at] + raw + content[at + len(raw):]
    elif kind == "cut":
        content = content[:at]
    elif b"\0" in content:  # no text
        content = content[:at] + raw * 4 + content[at + 4 * len(raw):]
    else:
        lines = content.decode("latin-1").split("\n")
        line = where % len(lines)
        if kind == "line":
            lines.insert(line, lines[where // 7 % len(lines)])
        else:
            separator = "," if "," in lines[line] else None
            words = lines[line].split(separator)
            if words:
                words[where // 11 % len(words)] = text
                lines[line] = (separator or " ").join(words)
        content = "\n".join(lines).encode("latin-1")
    path.write_bytes(content)


@cases(1200, at_least=40)
@given(format_=st.sampled_from(FORMATS), how=changes(), other=st.booleans(),
       target=st.integers(0, 5))
def test_imports(format_, how, other, target):
    with folder() as case:
        where = case / "there"
        shutil.copytree(exported(format_), where, symlinks=True)
        file = _file(where, format_)
        beside = sorted(p for p in (where / "out").rglob("*") if p.is_file() and not p.is_symlink())
        for kind, at, text, raw in how:
            path = beside[target % len(beside)] if other else file
            if path.is_file():
                _spoil(path, kind, at, text, raw)
        more = ["--voxel-size", 12, "--tilt-min", -60, "--tilt-max", 60] if format_ in (
            "motl", "peet", "dynamo", "eman") else []
        done = call("import-particles", file, "--format", format_, *more, "--output", case / "in")
        if done.status == 0:
            check_written(case / "in")
            rows = star.read(case / "in" / "particles.star")["particles"]
            assert len(rows) == done.result["n_particles"]


@cases(250, at_least=8)
@given(content=st.one_of(st.binary(max_size=600), st.text(max_size=200).map(
    lambda t: t.encode("utf-8", "replace"))),
    suffix=st.sampled_from([".tbl", ".em", ".json", ".lst", ".csv", ".star", ".xml", ""]))
def test_what_is_no_list_at_all(content, suffix):
    with folder() as case:
        file = case / f"particles{suffix}"
        file.write_bytes(content)
        done = call("import-particles", file, "--voxel-size", 5, "--output", case / "in")
        assert done.status in (0, 2)


@cases(150, at_least=6)
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(
    lambda t: t.encode("utf-8", "replace")),
    st.sampled_from([b"1 t1.mrc\n", b"1 t1.mrc\n1 t1.mrc\n", b"x y\n", b"t1.mrc\n* index = 5\n"])),
    suffix=st.sampled_from([".doc", ".vll", ".star", ".mrc", ".txt"]),
    format_=st.sampled_from(FORMATS))
def test_lists_of_tomograms(content, suffix, format_):
    with folder() as case:
        table, _ = particles(case, 2)
        tomograms = case / f"t{suffix}"
        tomograms.write_bytes(content)
        call("export-particles", table, "--format", format_, "--tomograms", tomograms, "--output",
             case / "out")
