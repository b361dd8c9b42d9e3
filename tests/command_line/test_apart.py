"""A policy that is judged by other actions than it learned with is told apart."""

from __future__ import annotations

from cli.runs.apart import apart_words
from kd_env.evaluation.reports.report import Report, summarize
from tests.evaluation.test_report import evaluation, result


def _report(*gaps: float) -> Report:
    return summarize(evaluation(result("agent", list(gaps), learned=True), result("all", [0.9 for _ in gaps])))


def _history(*gaps: float) -> list[dict[str, float]]:
    return [{"timesteps": 10.0 * place, "gap_closed": gap} for place, gap in enumerate(gaps)]


def test_most_likely_actions_far_below_the_tried_ones_are_told() -> None:
    said = apart_words(_report(0.1, 0.2, 0.1), _history(0.2, 0.5, 0.9, 0.94), True)
    assert said.startswith("While agent learned, the actions that it tried closed 0.940 of the gap")
    assert "close 0.133 on the selection rows" in said and "evaluation.deterministic=false" in said


def test_nothing_is_said_of_policies_that_are_close_or_were_sampled_or_are_unknown() -> None:
    low, high = _report(0.1, 0.2, 0.1), _report(0.9, 0.95, 0.9)
    assert apart_words(high, _history(0.2, 0.94), True) == ""
    assert apart_words(low, _history(0.2, 0.94), False) == ""
    assert apart_words(low, [{"timesteps": 5.0}], True) == ""
    assert apart_words(_report(0.7, 0.95, 0.9), _history(0.94), True) == "", "its interval reaches what was tried"
    assert apart_words(summarize(evaluation(result("all", [0.1, 0.2]))), _history(0.94), True) == ""
