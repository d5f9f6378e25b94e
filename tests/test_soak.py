"""gpumon does not grow, however long it runs and whatever comes and goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TICKS = 10_000


@pytest.mark.slow
def test_ten_thousand_ticks_of_churn_leave_nothing_behind(tmp_path: Path) -> None:
    """Memory within 1 MB, threads and open files as they were, with processes, devices and drivers coming and going."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.soak", str(TICKS), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    measured = json.loads(ran.stdout)
    before, after = measured["after_warm_up"], measured["end"]
    assert after["resident_bytes"] - before["resident_bytes"] <= 1 << 20, measured
    # Lost devices keep at most a thread for a while: none more at the end than at most after the warm-up.
    assert after["threads"] <= before["threads"] + 1, measured
    assert after["files"] <= before["files"], measured
