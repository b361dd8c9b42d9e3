"""A policy that is judged by other actions than it learned with is told apart."""

from __future__ import annotations

import pytest

from kd_env.evaluation.comparing.compare import compare
from kd_env.evaluation.comparing.words import plain_words
from kd_env.evaluation.reports.apart import apart
from kd_env.evaluation.reports.report import Report, summarize
from tests.evaluation.test_compare import AGENT, ALL, row, run
from tests.evaluation.test_report import evaluation, result


def _report(*gaps: float) -> Report:
    return summarize(evaluation(result("agent", list(gaps), learned=True), result("all", [0.9 for _ in gaps])))


def _history(*gaps: float) -> list[dict[str, float]]:
    return [{"timesteps": 10.0 * place, "gap_closed": gap} for place, gap in enumerate(gaps)]


def test_most_likely_actions_far_below_the_tried_ones_are_told() -> None:
    found = apart(_report(0.1, 0.2, 0.1), _history(0.2, 0.5, 0.9, 0.94), True)
    assert found is not None and found.tried == 0.94 and found.judged == pytest.approx(0.4 / 3)
    assert found.words.startswith("While agent learned, the actions that it tried closed 0.940 of the gap")
    assert "close 0.133 on the selection rows" in found.words and "evaluation.deterministic=false" in found.words


def test_nothing_is_said_of_policies_that_are_close_or_were_sampled_or_are_unknown() -> None:
    low, high = _report(0.1, 0.2, 0.1), _report(0.9, 0.95, 0.9)
    assert apart(high, _history(0.2, 0.94), True) is None
    assert apart(low, _history(0.2, 0.94), False) is None
    assert apart(low, [{"timesteps": 5.0}], True) is None
    assert apart(_report(0.7, 0.95, 0.9), _history(0.94), True) is None, "its interval reaches what was tried"
    assert apart(summarize(evaluation(result("all", [0.1, 0.2]))), _history(0.94), True) is None
    floored = [result("agent", [0.1, 0.2], learned=True, floored=True), result("all", [0.9, 0.9], floored=True)]
    assert summarize(evaluation(*floored)).measure == "loss"
    assert apart(summarize(evaluation(*floored)), _history(0.94), True) is None


def test_a_comparison_counts_the_trainings() -> None:
    found = {"apart": {"policy": "ac", "tried": 0.9, "judged": 0.1}}
    runs = [run(100 * place, row("ac", gaps, learned=True), ALL) for place, gaps in enumerate(AGENT)]
    assert "most likely actions" not in plain_words(compare(runs))
    far = [run(100 * place, row("ac", gaps, learned=True), ALL, **found) for place, gaps in enumerate(AGENT[:2])]
    said = plain_words(compare([*far, *runs[2:]]))
    assert "In 2 of 5 trainings of ac the most likely actions, which are judged, close far less" in said
