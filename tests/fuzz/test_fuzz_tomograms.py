"""Tilt series, detectors and acquisition values that are damaged: used, or refused in one line."""

from __future__ import annotations

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
from fuzz.builders import HOSTILE_FLOATS, folder, mrc_bytes, tomogram
from fuzz.harness import call, cases, check_reader, check_written
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.fuzz
N, TILTS = 12, np.array([-40.0, -20.0, 0.0, 20.0, 40.0])


def _tilt_stacks(where, count=2):
    """Particles as 2-D tilt stacks of a tomogram, and its geometry."""
    rng = np.random.default_rng(0)
    for i in range(count):
        with mrcfile.new(where / f"s{i}.mrcs") as mrc:
            mrc.set_data(rng.normal(0, 1, (len(TILTS), N, N)).astype(np.float32))
            mrc.voxel_size = 8.0
    rows = pd.DataFrame({
        "rlnTomoName": "T1", "rlnImageName": [f"s{i}.mrcs" for i in range(count)],
        "rlnOpticsGroup": 1, "rlnTomoVisibleFrames": "[1,1,1,0,1]", "rlnAngleRot": 10.0,
        "rlnAngleTilt": 20.0, "rlnAnglePsi": 30.0, "rlnOriginXAngst": 0.0, "rlnOriginYAngst": 0.0,
        "rlnOriginZAngst": 0.0})
    groups = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [8.0], "rlnImageSize": [N],
                           "rlnCtfDataAreCtfPremultiplied": [1], "rlnImageDimensionality": [2]})
    starfile.write({"general": {"rlnTomoSubTomosAre2DStacks": 1}, "optics": groups,
                    "particles": rows}, where / "particles.star")
    cos, sin = np.cos(np.deg2rad(TILTS)), np.sin(np.deg2rad(TILTS))
    tilts = pd.DataFrame({
        "rlnTomoProjX": [f"[{c:.6f},0,{s:.6f},0]" for c, s in zip(cos, sin, strict=True)],
        "rlnTomoProjY": "[0,1,0,0]",
        "rlnTomoProjZ": [f"[{-s:.6f},0,{c:.6f},0]" for c, s in zip(cos, sin, strict=True)],
        "rlnDefocusU": 30000.0, "rlnDefocusV": 29000.0, "rlnDefocusAngle": 30.0,
        "rlnCtfScalefactor": cos, "rlnMicrographPreExposure": np.arange(5) * 3.0})
    general = pd.DataFrame({
        "rlnTomoName": ["T1"], "rlnTomoHand": [1.0], "rlnVoltage": [300.0],
        "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
        "rlnTomoTiltSeriesPixelSize": [8.0]})
    starfile.write({"global": general, "T1": tilts}, where / "tomograms.star")


WORDS = [*map(repr, HOSTILE_FLOATS), "x", "[]", "[1,2]", "[x,y,z]", "[nan,0,0,0]", "T2", "-1", "0",
         "s9.mrcs", "[1,1,1,1]", "[0,0,0,0,0]"]


@cases(500, at_least=12)
@given(changes=st.lists(st.tuples(
    st.sampled_from(["particles.star", "tomograms.star"]), st.sampled_from(["word", "word", "word",
                                                                            "line", "drop"]),
    st.integers(0, 10**6), st.sampled_from(WORDS)), min_size=1, max_size=3),
    stack=st.one_of(st.none(), st.none(), mrc_bytes()))
def test_tilt_stacks(changes, stack):
    with folder() as where:
        _tilt_stacks(where)
        if stack is not None:
            (where / "s1.mrcs").write_bytes(stack)
        for name, kind, at, word in changes:
            lines = (where / name).read_text().split("\n")
            line = at % len(lines)
            if kind == "drop":
                del lines[line]
            elif kind == "line":
                lines.insert(line, lines[at // 7 % len(lines)])
            else:
                words = lines[line].split()
                if words:
                    words[at // 11 % len(words)] = word
                lines[line] = "\t".join(words)
            (where / name).write_text("\n".join(lines))
        done = call("reconstruct-particles", where / "particles.star", "--tomograms",
                    where / "tomograms.star", "--workers", 1, "--output", where / "out")
        if done.status == 0:
            check_written(where / "out")


@cases(100, at_least=4)
@given(content=st.one_of(st.binary(max_size=300), st.just(b"PK\x03\x04"), mrc_bytes()),
       kind=st.sampled_from(["new", "cut", "changed"]), at=st.integers(0, 10**6))
def test_a_detector_that_is_none(content, kind, at):
    pytest.importorskip("torch")
    from scipion_faml.detector import weights

    with folder() as where:
        path = where / "weights.pt"
        whole = weights.pretrained().read_bytes()
        at %= len(whole)
        changed = whole[:at] + content[:8] + whole[at + len(content[:8]):]
        path.write_bytes({"new": content, "cut": whole[:at], "changed": changed}[kind])
        check_reader(lambda: weights.load(path), str(path))


@cases(150, at_least=4)
@given(low=st.sampled_from(HOSTILE_FLOATS), high=st.sampled_from(HOSTILE_FLOATS),
       verb=st.sampled_from(["extract", "pick-dog", "simulate", "pick-template"]))
def test_acquisition_values(low, high, verb):
    from fuzz.builders import blob, picks, write_volume

    with folder() as where:
        tomo, tilts = tomogram(where / "t1.mrc"), [f"--tilt-min={low!r}", f"--tilt-max={high!r}"]
        write_volume(where / "map.mrc", blob(0), 12.0)
        words = {
            "extract": ["extract", tomo, picks(where / "p.star"), "--box", 8, "--output",
                        where / "out"],
            "pick-dog": ["pick-dog", tomo, "--diameter", 80, "--output", where / "out" / "p.star"],
            "pick-template": ["pick-template", tomo, "--template", where / "map.mrc",
                              "--angular-step", 60, "--control", "none", "--output",
                              where / "out" / "p.star"],
            "simulate": ["simulate-subtomograms", "--model", "blobs", "--count", 1, "--box", 12,
                         "--optics", "none", "--tilt-step", 30, "--output", where / "out"],
        }[verb]
        done = call(*words, *tilts, "--workers", 1)
        if done.status == 0 and (where / "out").is_dir():
            check_written(where / "out")
