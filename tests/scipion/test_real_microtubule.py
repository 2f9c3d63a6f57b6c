"""Real data through Scipion: imported, extracted and averaged, tubulin's repeat appears."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "real_microtubule.py"


@pytest.mark.slow
@pytest.mark.parametrize("protofilament", [0, 7])
def test_the_average_of_a_protofilament_shows_the_repeat_of_tubulin(
    tmp_path, shared_data, protofilament
):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--data", str(shared_data), "--output", str(tmp_path),
         "--protofilament", str(protofilament), "--workers", "2"],
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    # 4.1 nm; a box of 25 nm holds six repeats, so a twentieth of one is what it can tell.
    assert result["repeat_nm"] == pytest.approx(4.1, abs=0.2)
    assert result["power_over_median"] > 10
