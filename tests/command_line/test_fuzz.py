"""The harness of odd option sets: what it calls clear, unclear and silent, and a few sets of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.reliability import fuzz


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("budget=-1 must be a whole number of at least 1."), "clear"),
        (FileNotFoundError("There is no folder -1."), "clear"),
        (ValueError("something does not fit"), "unclear"),
        (TypeError("budget: '<' not supported"), "unclear"),
        (None, "runs"),
        ("budget is 80", "silent"),
    ],
)
def test_outcomes(error: Any, kind: str) -> None:
    """One line that names the option or its value is clear; other exceptions are not, and lost values are silent."""

    def run(options: dict[str, Any]) -> str:
        if isinstance(error, Exception):
            raise error
        return error or ""

    assert fuzz.outcome(fuzz.Surface("s", ("budget",), (), run), {"budget": -1}).kind == kind


def test_what_does_not_end_is_unclear(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute is enough for any set."""
    monkeypatch.setattr(fuzz, "SECONDS", 1)

    def run(options: dict[str, Any]) -> str:
        while True:
            pass

    assert "no end within 1 s" in fuzz.outcome(fuzz.Surface("s", ("budget",), (), run), {"budget": 1}).words


def test_a_few_sets_are_clear(capsys: pytest.CaptureFixture[str]) -> None:
    """The same sets for the same seed; none is unclear or silent."""
    assert fuzz.main(["--count", "12", "--seed", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| options of | sets | runs | clear | unclear | silent |" and len(lines) == 5
    assert sum(int(line.split("|")[2]) for line in lines[2:]) == 12


def test_environments_run_where_nothing_is_changed(tmp_path: Path) -> None:
    """Else every set would be refused for what the harness itself gives."""
    surfaces = fuzz.environments(tmp_path)
    assert [surface.run({}) for surface in surfaces] == ["", ""]


def test_epochs_without_end_are_refused(tiny: dict[str, Any]) -> None:
    """Found by it: more updates than any integer of the state holds."""
    from kd_env import DistillEnv

    with pytest.raises(ValueError, match=r"budget of epochs=1e\+300=.* must be a whole number"):
        DistillEnv(**tiny, epochs=1e300)


@pytest.mark.parametrize("options", [{"terms": 2}, {"terms": b"x"}, {"objective": ["x"]}, {"objective": {"name": 5}}])
def test_lists_and_names_of_other_types_are_named(options: dict[str, Any], tiny_text: dict[str, Any]) -> None:
    """Found by it in the tutor's environment, whose recipes read these before all options are checked."""
    from kd_env import DistillEnv

    with pytest.raises(ValueError, match=next(iter(options))):
        DistillEnv(decision="tutor_token", **{**tiny_text, **options})
