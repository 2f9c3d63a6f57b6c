"""Options of every verb with values that make no sense: done, or refused in one line."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from fuzz.builders import (
    HOSTILE_FLOATS,
    HOSTILE_TEXTS,
    blob,
    folder,
    particles,
    picks,
    tomogram,
    write_volume,
)
from fuzz.harness import call, cases, check_nobody_lost, check_written
from hypothesis import given
from hypothesis import strategies as st

from scipion_faml.cli import VERBS, main

pytestmark = pytest.mark.fuzz
# What would take long because it was asked for; smaller values are drawn.
LARGEST = {"--count": 4, "--iterations": 2, "--workers": 2, "--box": 40, "--sampling-sweeps": 2,
           "--starts": 2, "--max-classes": 3, "--gold": 5, "--membranes": 3, "--max-fold": 12,
           "--fold": 100, "--epochs": 1, "--bin": 8, "--candidates": 100, "--pairs": 1000,
           "--bandwidth": 40, "--max-candidates": 100, "--folds": 20, "--dense-bandwidth": 16}
SMALLEST = {"--angular-step": 30.0, "--coarse-step": 30.0, "--tilt-step": 0.5, "--voxel-size": 0.5,
            "--tomogram-voxel-size": 0.5, "--template-voxel-size": 0.5}
LEFT_OUT = {"--executor", "--scheduler", "--cluster-option", "--worker-timeout", "--preset",
            "--device", "--help", "--json", "--output", "--verbose", "--report", "--no-report"}
VERBS_TRIED = sorted(set(VERBS) - {"demo", "train-detector", "pick-detector", "noise-control",
                                   "reconstruct-particles", "reports"})


@cache
def parameters(verb: str) -> tuple[click.Option, ...]:
    """The options of a verb that take values or are flags."""
    command = main.get_command(click.Context(main), verb)
    return tuple(p for p in command.params
                 if isinstance(p, click.Option) and max(p.opts, key=len) not in LEFT_OUT)


def _base(verb: str, where: Path) -> list[Any]:
    """Arguments with which a verb is done quickly."""
    star, _ = particles(where, 3)
    truth, out = where / "truth.star", ["--output", where / "out"]
    truth.write_bytes(star.read_bytes())
    tomo, maps = tomogram(where / "t1.mrc"), (where / "p1.mrc", where / "p2.mrc")
    return {
        "simulate-subtomograms": ["--model", "blobs", "--count", 1, "--box", 12, "--optics", "none",
                                  "--tilt-step", 20, *out],
        "simulate-tomogram": ["--model", "blobs:1:60", "--count", 1, "--shape", "24,24,16",
                              "--optics", "none", "--voxel-size", 12, "--tilt-step", 20, *out],
        "pick-dog": [tomo, "--diameter", 80, "--output", where / "out" / "p.star"],
        "pick-template": [tomo, "--template", maps[0], "--angular-step", 60, "--tilt-min", -60,
                          "--tilt-max", 60, "--control", "none", "--output",
                          where / "out" / "p.star"],
        "extract": [tomo, picks(where / "picks.star"), "--box", 8, *out],
        "classify": [star, "--mode", "paper", "--iterations", 1, *out],
        "align": [star, "--reference", maps[1], "--search", "magnitude", *out],
        "average": [star, *out],
        "group": [star, *out],
        "evaluate-poses": [star, "--truth", truth],
        "evaluate-classes": [star, "--truth", truth],
        "evaluate-average": [maps[0], "--reference", maps[1]],
        "evaluate-picks": [star, "--truth", truth, "--radius", 40],
        "fsc": [*maps],
        "estimate-snr": [star],
        "find-symmetry": [maps[0], "--max-fold", 4],
        "evaluate-orientations": [star],
        "compare-runs": [star, truth, "--no-averages"],
        "export-particles": [star, "--format", "dynamo", *out],
        "import-particles": [star, *out],
        "join-particles": [star, truth, "--output", where / "out" / "all.star"],
    }[verb]


def _value(draw: Any, option: click.Option, where: Path) -> str:
    """A value of an option, good or bad."""
    name, kind = max(option.opts, key=len), option.type
    if isinstance(kind, click.Choice):
        return draw(st.one_of(st.sampled_from([*kind.choices]), st.sampled_from(["", "nonsense"])))
    if isinstance(kind, click.types.FloatParamType):
        value = draw(st.one_of(st.sampled_from(HOSTILE_FLOATS), st.floats(-200, 200)))
        return repr(max(value, SMALLEST.get(name, value)) if value > 0 else value)
    if isinstance(kind, click.types.IntParamType):
        value = draw(st.one_of(st.integers(-3, 20), st.sampled_from([10**9, -10**20, 10**20])))
        return str(min(value, LARGEST.get(name, value)))
    if isinstance(kind, click.Path):
        return str(where / draw(st.sampled_from(
            ["p3.mrc", "particles.star", "none.mrc", ".", "none/none.star", "text.txt",
             "wide.mrc"])))
    return draw(st.one_of(
        st.sampled_from(["C1", "C4", "D2", "O", "I", "C0", "C999", "C-1", "D", "auto", "1", "0",
                         "-1", "2.5", "nan", "16,16,16", "16,16", "0,0,0", "blobs", "blobs:x",
                         "groel"]),
        st.sampled_from([t for t in HOSTILE_TEXTS if "\0" not in t])))


@cases(3000, at_least=70)
@given(data=st.data(), verb=st.sampled_from(VERBS_TRIED))
def test_options_of_every_verb(data, verb):
    with folder() as where:
        (where / "out").mkdir()
        words = _base(verb, where)
        (where / "text.txt").write_text("hello\n")
        write_volume(where / "wide.mrc", blob(1, 14), 9.0)
        for _ in range(data.draw(st.integers(1, 3))):
            option = data.draw(st.sampled_from(parameters(verb)))
            name = max(option.opts, key=len)
            words.append(name)
            if not option.is_flag:
                words.append(_value(data.draw, option, where))
        done = call(verb, *words, *(["--workers", 1] if any(
            "--workers" in o.opts for o in parameters(verb)) and "--workers" not in words else []))
        if done.status == 0:
            check_written(where / "out")
            if verb in ("classify", "align", "average"):
                check_nobody_lost(done.result, 3, where / "out")


@cases(90, at_least=4)
@given(data=st.data())
def test_options_of_enhanced_classification(data):
    with folder() as where:
        star, _ = particles(where, data.draw(st.integers(1, 5)))
        words = ["classify", star, "--iterations", 2, "--workers", 1, "--output", where / "out"]
        for _ in range(data.draw(st.integers(1, 3))):
            option = data.draw(st.sampled_from(
                [o for o in parameters("classify") if o.name not in ("mode", "iterations")]))
            words.append(max(option.opts, key=len))
            if not option.is_flag:
                words.append(_value(data.draw, option, where))
        done = call(*words)
        if done.status == 0:
            check_written(where / "out")


@cases(150, at_least=4)
@given(words=st.lists(st.one_of(
    st.sampled_from([*VERBS, "--help", "--json", "--output", "--workers", "-1", "x.star"]),
    st.text(max_size=8)), max_size=5))
def test_commands_of_any_words(words):
    if {"demo", "train-detector"} & set(words):
        return
    with folder() as where, pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        call(words[0] if words else "", *words[1:], json_out=False)
