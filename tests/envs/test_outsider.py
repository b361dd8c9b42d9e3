"""Somebody else's algorithm, which knows only an id."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np


def test_single_file_ppo_trains_on_an_id() -> None:
    """A process that never imports kd_env by name trains for three episodes on the embedded task."""
    script = Path(__file__).parent.parent / "outsider_ppo.py"
    command = [sys.executable, str(script), "--total-steps", "128"]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    returns = [float(part) for part in out.stdout.strip().splitlines()[-1].strip("[]").split(",")]
    assert len(returns) == 3 and np.isfinite(returns).all()
    assert len(set(returns)) == 3, "different students, different returns"
