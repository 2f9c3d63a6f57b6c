"""What every report must be: well-formed, self-contained, readable without pictures, small."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

VOID = {"meta", "img", "br", "link", "wbr"}
MAX_BYTES = 5_000_000


class Page(HTMLParser):
    """Collects text, pictures and links of a page; tags must close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.images: list[dict] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(named)
        self.links += [named[key] for key in ("href", "src") if key in named and tag != "img"]
        if "id" in named:
            self.ids.append(named["id"])

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def check_report(path: Path, n_images: int = 0) -> Page:
    """Assert what every report must be; return the page."""
    html = path.read_text(encoding="utf-8")
    assert len(html.encode()) < MAX_BYTES
    page = Page(html)
    assert not page.open, f"not closed: {page.open}"
    assert "script" not in page.tags
    for link in page.links:
        assert link.startswith(("#", "https://doi.org/", "data:,")), link
        assert link[:1] != "#" or link[1:] in page.ids
    assert len(set(page.ids)) == len(page.ids)
    assert len(page.images) >= n_images
    for image in page.images:
        assert len(image["alt"]) > 5
        kind, data = image["src"].split(";base64,")
        assert kind in ("data:image/png", "data:image/jpeg")
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            picture.load()
            assert min(picture.size) > 50
    text = page.text
    assert "In short" in text and "bty267" in text
    assert "lacks a picture" not in text, text
    return page


def check_run_report(path: Path, n_images: int = 0) -> Page:
    """The same of a verb's report, which also says what was run."""
    page = check_report(path, n_images)
    for heading in ("What was run", "Settings", "Machine and versions", "How to cite"):
        assert heading in page.text
    for word in ("scipion-faml ", "numpy", "scipy", "Python", "started", "took"):
        assert word in page.text
    return page


def check_in_chromium(path: Path, picture: Path) -> None:
    """Assert that the browser draws a page without a word in its console; skip without one."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium here")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         "--v=0", f"--screenshot={picture}", "--window-size=1200,2400", path.as_uri()],
        capture_output=True, text=True, timeout=120)
    assert picture.stat().st_size > 50_000
    assert ":CONSOLE" not in done.stderr, done.stderr
