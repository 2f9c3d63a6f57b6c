"""MRC files whose header, values or length are wrong: read, or refused in one line."""

from __future__ import annotations

import bz2
import gzip

import numpy as np
import pytest
from fuzz.builders import folder, mrc_bytes, particles, picks, tomogram
from fuzz.harness import call, cases, check_reader, check_written
from hypothesis import given
from hypothesis import strategies as st

from scipion_faml import io
from scipion_faml.cli.tomograms import open_tomogram

pytestmark = pytest.mark.fuzz
PACKERS = {".mrc": bytes, ".mrc.gz": gzip.compress, ".mrc.bz2": bz2.compress}


@cases(2400)
@given(content=mrc_bytes(), suffix=st.sampled_from([".mrc"] * 4 + [".mrc.gz", ".mrc.bz2"]))
def test_every_reader_of_volumes(content, suffix):
    with folder() as where:
        path = where / f"map{suffix}"
        path.write_bytes(PACKERS[suffix](content))
        header = check_reader(lambda: io.read_header(path), str(path))
        volume = check_reader(lambda: io.read_volume(path), str(path))
        check_reader(lambda: io.read_cube(path), str(path))
        weight = check_reader(lambda: io.read_weight(path), str(path))
        if volume is not None:
            values, voxel_size = volume
            assert header is not None and header[0] == values.shape
            assert np.isfinite(values).all() and values.dtype == np.float32
            assert np.isfinite(voxel_size) and voxel_size >= 0
        if weight is not None:
            assert weight.min() >= 0


@cases(600)
@given(content=st.one_of(st.binary(max_size=3000), st.text(max_size=300).map(str.encode)),
       suffix=st.sampled_from(sorted(PACKERS)))
def test_what_is_no_volume_at_all(content, suffix):
    with folder() as where:
        path = where / f"map{suffix}"
        path.write_bytes(content)
        assert check_reader(lambda: io.read_volume(path), str(path)) is None


@cases(500)
@given(content=mrc_bytes(n=16))
def test_a_tomogram(content):
    def read(path):
        with open_tomogram(path) as volume:
            return np.array(volume)

    with folder() as where:
        path = where / "t.mrc"
        path.write_bytes(content)
        check_reader(lambda: read(path), str(path))


def _star(where):
    return particles(where)[0]


def _verb(where, which, bad):
    """A verb to which the spoilt file is given in one of its places."""
    star = _star(where)
    good, out, serial = where / "p2.mrc", where / "out", ["--workers", 1]
    if which == "particle":
        bad.replace(where / "p1.mrc")
        return ["average", star, "--output", out, *serial]
    if which == "aligned":
        bad.replace(where / "p1.mrc")
        return ["align", star, "--reference", good, "--search", "magnitude", "--output", out,
                *serial]
    if which == "reference":
        return ["align", star, "--reference", bad, "--search", "magnitude", "--output", out,
                *serial]
    if which == "mask":
        return ["average", star, "--mask", bad, "--output", out, *serial]
    if which == "half":
        return ["fsc", bad, good]
    if which == "fsc mask":
        return ["fsc", good, where / "p3.mrc", "--mask", bad]
    if which == "tomogram":
        return ["extract", bad, picks(where / "t.star"), "--box", 8, "--output", out, *serial]
    if which == "picked":
        return ["pick-dog", bad, "--diameter", 80, "--output", where / "out.star", *serial]
    if which == "pick mask":
        return ["pick-dog", tomogram(where / "t.mrc"), "--diameter", 80, "--mask", bad,
                "--output", where / "out.star", *serial]
    if which == "template":
        return ["pick-template", tomogram(where / "t.mrc"), "--template", bad, "--angular-step", 90,
                "--tilt-min", -60, "--tilt-max", 60, "--output", where / "out.star", *serial]
    if which == "model":
        return ["simulate-subtomograms", "--model", bad, "--count", 1, "--box", 12, "--optics",
                "none", "--output", out, *serial]
    return ["classify", star, "--mode", "paper", "--iterations", 1, "--reference", bad,
            "--output", out, *serial]


PLACES = ["particle", "aligned", "reference", "mask", "half", "fsc mask", "tomogram", "picked",
          "pick mask", "template", "model", "classes' reference"]


@cases(1500, at_least=30)
@given(content=mrc_bytes(), which=st.sampled_from(PLACES))
def test_verbs(content, which):
    with folder() as where:
        bad = where / "bad.mrc"
        bad.write_bytes(content)
        call(*_verb(where, which, bad))
        check_written(where / "out") if (where / "out").is_dir() else None
