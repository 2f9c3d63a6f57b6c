"""The script that makes the pictures of forms, wizards and viewers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "screenshots.py"
sys.path[:0] = [str(SCRIPT.parent)]

import screenshots  # noqa: E402
from shots import display, pictures  # noqa: E402


def test_without_a_display_server_the_script_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda _command: None)
    assert screenshots.main(["--output", str(tmp_path / "pictures")]) == 0
    assert "skipped: install Xvfb (apt-get install xvfb)" in capsys.readouterr().out


def test_pictures_of_noise_become_small(tmp_path):
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (350, 800, 3), dtype=np.uint8)
    pictures.write_small(Image.fromarray(noise), tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size < pictures.LARGEST_FILE
    pictures.write_small(Image.new("RGB", (2400, 300), "white"), tmp_path / "wide.png")
    assert Image.open(tmp_path / "wide.png").size == (1200, 150)


@pytest.mark.slow
def test_a_few_pictures_are_made_on_a_display_of_their_own(tmp_path):
    missing = [command for command in display.NEEDED if shutil.which(command) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SCIPION_")}
    environment.pop("DISPLAY", None)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--small", "--output", str(tmp_path)], text=True,
        capture_output=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    made = {path.stem for path in tmp_path.glob("shot_*.png")}
    assert made == set(screenshots.SMALL_ONLY) - screenshots.WITHOUT_WINDOW
