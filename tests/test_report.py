"""Reports open without a network and hold what was put in; figures are made without a screen."""

from __future__ import annotations

import re
import threading
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from scipion_faml import plots
from scipion_faml.report import Report


def ball(n=24):
    grid = np.indices((n, n, n)) - n // 2
    return (np.sqrt((grid**2).sum(axis=0)) < n / 4).astype(np.float32)


class Balanced(HTMLParser):
    """Checks that tags close in order; collects text."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in {"meta", "img", "br", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def page(tmp_path):
    report = Report("Two <classes> & a title")
    report.add_warning("class 2 is empty")
    report.add_text("First paragraph.\n\nSecond one with <b>.", "Words")
    report.add_figure(plots.class_sizes([10, 3]), "Sizes of classes")
    report.add_table("Settings", {"n_classes": 2, "seed": None, "use": True, "a": [1.5, 2.25]})
    report.add_table("History", pd.DataFrame({"iteration": [1, 2], "sigma": [0.5, np.nan]}))
    return report.write(tmp_path / "report.html").read_text()


def test_the_page_is_well_formed_and_escapes_what_it_is_given(page):
    parser = Balanced()
    parser.feed(page)
    assert not parser.open
    text = " ".join(parser.text)
    for expected in ("Two <classes> & a title", "class 2 is empty", "Second one with <b>.",
                     "Sizes of classes", "n_classes", "2.25", "yes"):
        assert expected in text


def test_the_page_needs_no_network_and_cites_the_paper(page):
    assert not re.findall(r'(?:src|href)="(?!data:|https://doi.org/|#)', page)
    assert "10.1093/bioinformatics/bty267" in page and "i227-i236" in page
    assert "data:image/png;base64," in page


def test_missing_numbers_are_dashes_not_nan(page):
    assert "nan" not in page.split("History")[1].lower()


def test_a_long_table_says_how_long_it_is(tmp_path):
    table = pd.DataFrame({"row": np.arange(500)})
    path = Report("Long").add_table("Rows", table).write(tmp_path / "long.html")
    assert "The first 200 of 500 rows" in path.read_text()


def test_every_figure_renders_in_a_thread_without_pyplot():
    rng = np.random.default_rng(0)
    stack = np.stack([ball(), ball()[::-1]]) + 0.1 * rng.standard_normal((2, 24, 24, 24))
    history = pd.DataFrame({
        "iteration": [1, 2, 3], "log_likelihood": [-3.0, -2.0, -1.5], "sigma": [1.0, 0.9, 0.8],
        "zeta": [9.0, 3.0, 2.0], "alpha_001": [0.5, 0.6, 0.7], "alpha_002": [0.5, 0.4, 0.3],
        "pose_change_deg": [np.nan, 40.0, 3.0], "resolution_angst": [np.nan] * 3,
    })
    frequency = np.arange(1, 12) / 100
    figures = []

    def draw():
        figures.extend([
            plots.class_gallery(stack, ["class 1: 7 particles", "class 2: 9 particles"], 5.0),
            plots.class_gallery(stack[0], with_surface=False),
            plots.surface_view(ball(), title="ball"),
            plots.convergence(history),
            plots.convergence(history[:0]),
            plots.class_sizes([4, 5], ["a", "b"]),
            plots.fsc_curves({"half maps": (frequency, np.exp(-frequency * 20))}),
            plots.confusion([[5, 1], [0, 4]], ["x", "y"]),
            plots.pose_errors(rng.uniform(0, 20, 30), rng.uniform(0, 2, 30)),
            plots.picks_on_slice(stack[0, 12], [[3, 4], [10, 12]], 3.0, [5.0, 7.0], [[3, 4]]),
            plots.picks_on_slice(stack[0, 12], np.zeros((0, 2))),
            plots.orientations(np.tile(np.eye(3), (4, 1, 1))),
        ])

    worker = threading.Thread(target=draw)
    worker.start()
    worker.join()
    assert len(figures) == 12
    for figure in figures:
        assert plots.png_bytes(figure, dpi=40).startswith(b"\x89PNG")


def test_the_surface_of_a_ball_is_a_disc_that_is_brightest_towards_the_light():
    picture = plots.shaded_surface(ball(32), level=0.5, size=96)
    inside = np.isfinite(picture)
    radius = np.sqrt(inside.sum() / np.pi)
    # A ball of a quarter of the box.
    assert radius == pytest.approx(96 / 4, rel=0.08)
    y, x = np.nonzero(inside)
    assert abs(y.mean() - 48) < 1.5 and abs(x.mean() - 48) < 1.5
    upper_left = picture[48 + 12, 48 - 12]  # rows grow upwards on the screen
    lower_right = picture[48 - 12, 48 + 12]
    assert upper_left > lower_right


def test_an_empty_volume_has_no_surface():
    assert not np.isfinite(plots.shaded_surface(np.zeros((16, 16, 16)), level=0.5)).any()


def test_central_slices_cross_the_centre_voxel():
    volume = np.zeros((10, 10, 10))
    volume[5, 5, 5] = 1.0
    assert all(picture[5, 5] == 1.0 for picture in plots.central_slices(volume))


def test_a_gallery_of_many_classes_says_that_it_shows_the_first():
    stack = np.random.default_rng(1).standard_normal((26, 8, 8, 8))
    figure = plots.class_gallery(stack, with_surface=False)
    assert figure.get_suptitle() == "the first 24 of 26 classes"
