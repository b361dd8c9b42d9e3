"""What became of the hypotheses of a study, against the differences that they are about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from test_compare import AGENT, ALL, SOFT, row, run

from kd_env.evaluation.comparing.compare import compare
from kd_env.evaluation.comparing.hypotheses import BEST_RULE, Hypothesis, Outcome, outcomes, table, values_of
from kd_env.evaluation.comparing.runs import Run
from kd_env.evaluation.statistics.crossed import policy_difference
from kd_env.evaluation.statistics.pooled import pooled_difference


def problem(shift: float = 0.0, noise: float = 0.0, trainings: int = 5) -> list[Run]:
    """An agent that is ``shift`` above the soft labels, give or take the noise."""
    rng = np.random.default_rng(3)
    rows = [np.array([0.5, 0.4, 0.6]) + shift + noise * rng.normal(size=3) for _ in range(trainings)]
    found = [run(100 * i, row("ac", list(map(float, gaps)), learned=True)) for i, gaps in enumerate(rows)]
    found[0].results["policies"].extend([ALL, SOFT])
    return found


def outcome_of(runs: dict[str, Sequence[Run]], **changes: Any) -> Outcome:
    values = {"name": "H1", "says": "it helps", "agent": "ac", "above": BEST_RULE, "problems": tuple(runs), **changes}
    comparisons = {name: compare(found) for name, found in runs.items() if found}
    return outcomes([Hypothesis(**values)], runs, comparisons)[0]


def test_an_outcome_is_the_pooled_difference_to_each_problems_best_rule() -> None:
    runs = {"a": problem(0.2, 0.02), "b": problem(0.1, 0.02)}
    outcome = outcome_of(runs)
    expected = pooled_difference(
        {
            name: (values_of(r, "ac", "validation"), values_of(r, "soft_label_only", "validation"))
            for name, r in runs.items()
        }
    )
    assert outcome.pooled == expected
    assert [part.above for part in outcome.parts] == ["soft_label_only"] * 2
    assert outcome.parts[0].difference == policy_difference(
        values_of(runs["a"], "ac", "validation"), values_of(runs["a"], "soft_label_only", "validation")
    )
    assert outcome.holds and outcome.verdict == "supported"
    assert "| **H1** ac | all 2, equal weights | best_rule | +0.1" in table([outcome])


@pytest.mark.parametrize(
    ("shift", "noise", "trainings", "verdict"),
    [(-0.2, 0.02, 5, "refuted: below"), (0.001, 0.1, 5, "tie"), (0.2, 0.02, 4, "shown, no claim")],
)
def test_a_hypothesis_that_does_not_hold_says_why(shift: float, noise: float, trainings: int, verdict: str) -> None:
    outcome = outcome_of({"a": problem(shift, noise, trainings)})
    assert not outcome.holds and verdict in outcome.verdict


def test_holm_counts_the_hypotheses() -> None:
    runs = {"a": problem(0.02, 0.02)}
    comparisons = {"a": compare(runs["a"])}
    one = Hypothesis("H", "", "ac", BEST_RULE, ("a",))
    alone = outcomes([one], runs, comparisons)[0]
    of_three = outcomes([one] * 3, runs, comparisons)[0]
    assert alone.pooled is not None and alone.holm_p == alone.pooled.p_value
    assert of_three.holm_p == pytest.approx(3 * alone.holm_p)


def test_problems_without_results_keep_a_hypothesis_open() -> None:
    outcome = outcome_of({"a": problem(0.2, 0.02), "b": []}, problems=("a", "b"))
    assert outcome.missing == ("b",) and not outcome.holds and outcome.verdict == "unfinished: without b"
    nothing = outcome_of({"a": []})
    assert nothing.pooled is None and nothing.verdict == "no results"
    assert "| | a | best_rule | | no results |" in table([nothing])


def test_another_policy_may_be_named_and_must_exist() -> None:
    runs = problem(0.2, 0.02)
    assert outcome_of({"a": runs}, above="all").parts[0].above == "all"
    with pytest.raises(ValueError, match=r"'al'.*all"):
        outcome_of({"a": runs}, above="al")
    untrained = [run(100 * i, row("ac", gaps, learned=True), control="untrained") for i, gaps in enumerate(AGENT)]
    part = outcome_of({"a": [*runs, *untrained]}, above="ac (untrained)").parts[0]
    assert part.difference.groups == (5, 5)


def test_an_intervention_has_a_training_for_each_that_it_was_made_on() -> None:
    runs = problem(0.2, 0.02)
    for index, each in enumerate(runs):
        name = "ac [open_loop]"
        each.results["policies"].append({**row(name, [0.1 * index, 0.2, 0.3]), "intervention": "open_loop", "of": "ac"})
    values = values_of(runs, "ac [open_loop]", "validation")
    assert values.shape == (5, 30) and values[:, 0] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert outcome_of({"a": runs}, above="ac [open_loop]").parts[0].difference.groups == (5, 5)
