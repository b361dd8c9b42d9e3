"""What every environment, view and evaluation does, step by step, against what was recorded (tests/golden)."""

from __future__ import annotations

import gymnasium as gym
import pytest
from golden import play
from golden.cases import CASES
from golden.digests import differences


@pytest.mark.parametrize("name", play.NAMES)
def test_nothing_changed(name: str) -> None:
    """Bit by bit, or within rounding where bits differ; ``KD_ENV_GOLDEN=exact`` wants bits."""
    lines = play.check(name)
    assert not lines, f"{name} is not what was recorded:\n" + "\n".join(lines[:20])


def test_every_registered_environment_is_played() -> None:
    registered = {name for name in gym.registry if name.startswith("kd_env/")}
    assert {f"kd_env/{case.env}" for case in CASES.values()} == registered


def test_a_wrong_number_a_wrong_row_and_a_lost_key_are_named() -> None:
    name = "sample_weighting/native"
    trace, expected = play.trace_of(name), play.recorded(play.file_of(name))[name]

    def places(exact: bool = False) -> list[str]:
        return sorted(line.split(":")[0] for line in differences(trace, expected, tolerance=1e-3, exact=exact))

    assert places() == []
    label, loss = trace["info/loss"][2]
    trace["info/loss"][2] = (label, loss * (1 + 1e-9))
    assert places() == [] and "info/loss" in places(exact=True), "rounding passes, but not where bits are asked for"
    trace["info/loss"][2] = (label, loss * (1 + 1e-2))
    assert places() == ["info/loss at 2"]
    label, rows = trace["info/rows"][1]
    trace["info/rows"][1] = (label, rows[::-1].copy())
    del trace["reward"]
    assert places() == ["info/loss at 2", "info/rows at 1", "reward"]
