"""Particles damaged in any way, any number of classes, boxes, masks, references: nobody is lost."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from fuzz.builders import (
    BOX,
    VOXEL_SIZE,
    blob,
    folder,
    hostile_floats,
    mrc_bytes,
    optics,
    weight_file,
    write_raw,
    write_table,
)
from fuzz.harness import call, cases, check_nobody_lost, check_written
from hypothesis import given
from hypothesis import strategies as st

from scipion_faml.io import write_volume

pytestmark = pytest.mark.fuzz
DAMAGE = ["good", "good", "good", "nan", "one nan", "inf", "constant", "zero", "huge", "tiny",
          "missing", "cut", "text", "empty", "other box", "flat", "no cube", "other voxel size",
          "no voxel size", "bytes", "folder", "twice", "link"]


def _write(where, number, damage, content, n):
    """A particle, damaged; return its name in the table."""
    name = f"p{number}.mrc"
    path, volume = where / name, np.array(blob(number, n))
    special = {
        "nan": volume * np.nan, "constant": volume * 0 + 3, "zero": volume * 0,
        "huge": volume * np.float32(1e30), "tiny": volume * np.float32(1e-30),
        "other box": blob(number, n + 2), "flat": volume[:1], "no cube": volume[:, : n - 1],
        "inf": np.where(volume > 1, np.inf, volume)}
    if damage == "twice":
        name = "p0.mrc"
    elif damage == "missing":
        pass
    elif damage == "link":
        path.symlink_to(where / "p0.mrc")
    elif damage == "folder":
        path.mkdir()
    elif damage in ("cut", "text", "empty", "bytes"):
        path.write_bytes({"cut": content[:1500], "text": b"hello", "empty": b"",
                          "bytes": content}[damage])
    elif damage == "one nan":
        volume[0, 0, 0] = np.nan
        write_raw(path, volume)
    elif damage in special:
        write_raw(path, special[damage])
    else:
        write_raw(path, volume, {"other voxel size": 5.0, "no voxel size": 0.0}.get(
            damage, VOXEL_SIZE))
    return name


def _table(where, damages, content, n, **columns):
    """A table of particles in which some are damaged; the first is good."""
    names = [_write(where, i, d, content, n) for i, d in enumerate(["good", *damages])]
    count = len(names)
    rng = np.random.default_rng(2)
    rows = pd.DataFrame({
        "rlnImageName": names, "rlnOpticsGroup": 1, "rlnTomoName": "t",
        "rlnAngleRot": rng.uniform(-180, 180, count), "rlnAngleTilt": rng.uniform(0, 180, count),
        "rlnAnglePsi": rng.uniform(-180, 180, count)}).assign(**columns)
    return write_table(where / "particles.star", rows, optics(rlnImageSize=n))


damages = st.lists(st.sampled_from(DAMAGE), min_size=0, max_size=6)


@cases(1500, at_least=30)
@given(damaged=damages, content=mrc_bytes(), skip=st.booleans(),
       verb=st.sampled_from(["average", "average", "align", "classify"]), workers=st.integers(1, 2))
def test_damaged_particles(damaged, content, skip, verb, workers):
    more = {"average": [], "align": ["--reference", "ref.mrc", "--search", "magnitude"],
            "classify": ["--mode", "paper", "--iterations", 1]}[verb]
    with folder() as where:
        star_file = _table(where, damaged, content, BOX)
        write_volume(where / "ref.mrc", blob(9), VOXEL_SIZE)
        done = call(verb, star_file, *(where / w if w == "ref.mrc" else w for w in more),
                    "--workers", workers, "--output", where / "out",
                    *(["--skip-bad"] if skip else []))
        certain = [d for d in damaged if d not in (
            "good", "no voxel size", "bytes", "twice", "link")]
        if done.status == 0:
            check_written(where / "out")
            check_nobody_lost(done.result, len(damaged) + 1, where / "out")
            assert skip or not certain
            # Of two box sizes, that of most particles is the set's.
            assert done.result["n_excluded"] >= len([d for d in certain if d != "other box"])
        elif skip:
            # Two particles at least are needed to classify; else all that is left is used.
            assert "at least 2 are needed" in done.message, done.message


@cases(200, at_least=4)
@given(damaged=st.lists(st.sampled_from(["good", "nan", "constant", "cut", "other box", "twice"]),
                        min_size=2, max_size=6), classes=st.sampled_from(["1", "2", "3", "8"]))
def test_enhanced_mode_leaves_them_out_too(damaged, classes):
    with folder() as where:
        star_file = _table(where, damaged, b"x" * 2000, 8)
        done = call("classify", star_file, "--skip-bad", "--classes", classes, "--iterations", 1,
                    "--folds", 1, "--starts", 1, "--workers", 1, "--output", where / "out")
        if done.status == 0:
            check_written(where / "out")
            check_nobody_lost(done.result, len(damaged) + 1, where / "out")


@cases(300, at_least=8)
@given(count=st.integers(1, 6), classes=st.one_of(
    st.sampled_from(["0", "1", "-1", "auto", "x", "1000000"]), st.integers(1, 8).map(str)),
    n=st.sampled_from([2, 3, 4, 7, 8, 9, 11, 12, 15]), mode=st.sampled_from(["paper"] * 4 + [
        "enhanced"]), wedge=st.sampled_from([(-60, 60), (-90, 90), (-1, 1), (0, 1), (-90, -89.9),
                                             (89, 90), (0, 0), (60, -60)]))
def test_any_number_of_classes_boxes_and_wedges(count, classes, n, mode, wedge):
    with folder() as where:
        _table(where, ["good"] * (count - 1), b"", n)
        rows = pd.DataFrame({"rlnImageName": [f"p{i}.mrc" for i in range(count)],
                             "rlnOpticsGroup": 1})
        star_file = write_table(where / "particles.star", rows, optics(
            rlnImageSize=n, famlTiltMin=wedge[0], famlTiltMax=wedge[1]))
        more = ["--folds", 1, "--starts", 1] if mode == "enhanced" else []
        done = call("classify", star_file, "--classes", classes, "--mode", mode, "--iterations", 1,
                    "--workers", 1, "--output", where / "out", *more)
        if done.status == 0:
            check_written(where / "out")
            check_nobody_lost(done.result, count, where / "out")


@cases(300, at_least=8)
@given(low=hostile_floats, high=hostile_floats, n=st.sampled_from([8, 10, 12, 31]),
       size=st.sampled_from([12.0, 0.0, 6.0, 24.0, 1e-3, 1e4]), which=st.sampled_from(
           ["--mask", "--mask", "--reference"]),
       verb=st.sampled_from(["average", "align", "classify"]))
def test_masks_and_references_of_any_kind(low, high, n, size, which, verb):
    with folder() as where:
        star_file = _table(where, ["good"] * 3, b"", BOX)
        values = np.array(blob(3, n), dtype=np.float64)
        values = (values - values.min()) / (values.max() - values.min())
        with np.errstate(all="ignore"):
            write_raw(where / "other.mrc", (low + values * (high - low)).astype(np.float32), size)
        write_volume(where / "ref.mrc", blob(9), VOXEL_SIZE)
        words = [which, where / "other.mrc"]
        if verb == "align":
            words = ["--search", "magnitude", "--reference",
                     where / ("other.mrc" if which == "--reference" else "ref.mrc")]
        elif verb == "average":
            words = ["--mask", where / "other.mrc"]
        else:
            words += ["--mode", "paper", "--iterations", 1]
        done = call(verb, star_file, *words, "--workers", 1, "--output", where / "out")
        if done.status == 0:
            check_written(where / "out")
            check_nobody_lost(done.result, 4, where / "out")


@cases(150, at_least=5)
@given(groups=st.lists(st.tuples(st.sampled_from([-60.0, -90.0, -45.0, 0.0]), st.sampled_from(
    [60.0, 90.0, 30.0, 1.0]), st.sampled_from([12.0, 12.0, 12.05, 6.0])), min_size=1, max_size=3),
    with_weights=st.booleans(), skip=st.booleans())
def test_mixed_tomograms_tilt_ranges_and_voxel_sizes(groups, with_weights, skip):
    with folder() as where:
        count = 6
        of = [i % len(groups) + 1 for i in range(count)]
        _table(where, ["good"] * (count - 1), b"", BOX)
        rows = pd.DataFrame({"rlnImageName": [f"p{i}.mrc" for i in range(count)],
                             "rlnTomoName": [f"t{g}" for g in of], "rlnOpticsGroup": of})
        if with_weights:
            weight_file(where / "w.mrc")
            rows["rlnCtfImage"] = "w.mrc"
        table = pd.concat([optics(rlnOpticsGroup=g, famlTiltMin=low, famlTiltMax=high,
                                  rlnImagePixelSize=size)
                           for g, (low, high, size) in enumerate(groups, 1)])
        star_file = write_table(where / "particles.star", rows, table)
        done = call("classify", star_file, "--mode", "paper", "--iterations", 1, "--workers", 1,
                    "--output", where / "out", *(["--skip-bad"] if skip else []))
        if done.status == 0:
            check_written(where / "out")
            check_nobody_lost(done.result, count, where / "out")


@cases(60, at_least=2)
@given(kind=st.sampled_from(["empty", "only optics", "one", "no column", "no rows"]))
def test_tables_of_none_and_one(kind):
    with folder() as where:
        star_file = _table(where, [], b"", BOX)
        text = star_file.read_text()
        if kind == "empty":
            text = ""
        elif kind == "only optics":
            text = text[: text.index("data_particles")]
        elif kind == "no rows":
            text = text[: text.index("p0.mrc")]
        elif kind == "no column":
            text = text.replace("_rlnImageName", "_rlnOther")
        star_file.write_text(text)
        for verb, *more in (["average"], ["classify"], ["align", "--reference", where / "p0.mrc"]):
            done = call(verb, star_file, *more, "--workers", 1, "--output", where / verb)
            if done.status == 0:
                check_written(where / verb)
                check_nobody_lost(done.result, 1, where / verb)
            shutil.rmtree(where / verb, ignore_errors=True)
