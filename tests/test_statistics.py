"""Statistics against SciPy, against slow versions, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kd_env.evaluation import statistics as s


@pytest.mark.parametrize("dof", [1, 2, 3, 4, 5, 9, 10, 29, 100])
def test_student_t_agrees_with_scipy(dof: int) -> None:
    for t in (-40.0, -3.0, -0.2, 0.0, 0.7, 2.5, 12.0):
        assert s.t_cdf(t, dof) == pytest.approx(stats.t.cdf(t, dof), abs=1e-12)
    for p in (0.001, 0.025, 0.4, 0.5, 0.9, 0.975, 0.9999):
        assert s.t_quantile(p, dof) == pytest.approx(stats.t.ppf(p, dof), rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@settings(max_examples=50, deadline=None)
def test_interval_agrees_with_scipy(values: list[float], level: float) -> None:
    got = s.t_interval(values, level)
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    assert got.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert got.high - got.mean == pytest.approx(half, rel=1e-9, abs=1e-9)
    assert got.mean - got.low == pytest.approx(half, rel=1e-9, abs=1e-9)
    assert got.units == len(values)


def test_one_unit_says_nothing_about_the_spread() -> None:
    got = s.t_interval([0.4])
    assert (got.mean, got.low, got.high) == (0.4, -math.inf, math.inf)
    assert not s.nested_difference([[1.0]], [0.0]).claim


def test_paired_difference_agrees_with_scipy_and_uses_the_pairs() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(0, 10, 8)
    first, second = base + generator.normal(0.5, 0.1, 8), base
    got = s.paired_difference(first, second, trained=True)
    assert got.p_value == pytest.approx(stats.ttest_rel(first, second).pvalue, abs=1e-10)
    assert got.claim and got.unit == "training"
    # Unpaired, the spread of the seeds would drown the difference.
    assert stats.ttest_ind(first, second).pvalue > 0.5


@pytest.mark.parametrize(("units", "trained", "claim"), [(4, True, False), (5, True, True), (30, False, False)])
def test_claims_need_five_trainings(units: int, trained: bool, claim: bool) -> None:
    values = 1 + 0.01 * np.random.default_rng(1).normal(size=units)
    got = s.paired_difference(values, np.zeros(units), trained=trained)
    assert got.interval.low > 0
    assert got.claim is claim


def test_an_interval_around_zero_is_no_claim() -> None:
    assert not s.paired_difference([1.0, -1, 1, -1, 1, -1], np.zeros(6), trained=True).claim


def test_nested_intervals_count_trainings() -> None:
    generator = np.random.default_rng(2)
    values = generator.normal(0, 1, (5, 1)) + generator.normal(0, 0.01, (5, 40))
    nested, flat = s.nested_interval(values), s.t_interval(values.ravel())
    assert nested.units == 5
    assert nested.half_width > 4 * flat.half_width
    comparator = generator.normal(0, 1, 40)
    difference = s.nested_difference(values, comparator)
    assert difference.unit == "training"
    assert difference.interval.mean == pytest.approx((values - comparator).mean())
    single = s.nested_difference(values[:1], comparator)
    assert single.unit == "evaluation seed" and not single.claim
    with pytest.raises(ValueError, match="comparator must have shape"):
        s.nested_difference(values, comparator[:7])


@pytest.mark.parametrize("p", [[0.01, 0.04, 0.03, 0.005], [0.5], [1.0, 1.0, 0.0], []])
def test_holm_against_the_definition(p: list[float]) -> None:
    slow = []
    for value in p:
        smaller = [other for other in p if other <= value]
        slow.append(max((min(1.0, (len(p) - sum(q < o for q in p)) * o) for o in smaller), default=1.0))
    assert s.holm(p) == pytest.approx(slow)


def test_nested_intervals_cover_at_their_level() -> None:
    generator = np.random.default_rng(3)
    hits = flat_hits = 0
    for _ in range(400):
        values = generator.normal(0, 1, (5, 1)) + generator.normal(0, 1, (5, 10))
        nested, flat = s.nested_interval(values), s.t_interval(values.ravel())
        hits += nested.low <= 0 <= nested.high
        flat_hits += flat.low <= 0 <= flat.high
    assert 0.92 <= hits / 400 <= 0.98
    assert flat_hits / 400 < 0.8


def test_bootstrap_over_examples() -> None:
    correct = (np.arange(400) % 10 != 0).astype(float)
    got = s.bootstrap_examples(lambda rows: float(correct[rows].mean()), 400, seed=0)
    assert got.mean == pytest.approx(0.9)
    assert got.half_width == pytest.approx(1.96 * math.sqrt(0.09 / 400), rel=0.15)
    assert got == s.bootstrap_examples(lambda rows: float(correct[rows].mean()), 400, seed=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: s.t_interval([]), "at least one value"),
        (lambda: s.t_interval([1.0, math.nan]), "non-finite"),
        (lambda: s.t_interval([1.0], level=1.0), "level=1.0"),
        (lambda: s.paired_difference([1.0, 2.0], [1.0]), "same length"),
        (lambda: s.holm([1.5]), r"\[0, 1\]"),
        (lambda: s.welch_detectable_difference((1.0, 1.0), (5, 1)), "units=1"),
        (lambda: s.welch_detectable_difference((1.0, 1.0), (5, 5), power=1.5), "power=1.5"),
        (lambda: s.bootstrap_examples(lambda rows: 0.0, 0, seed=0), "rows=0"),
        (lambda: s.t_quantile(0.0, 4), "probability"),
    ],
)
def test_bad_input_is_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
