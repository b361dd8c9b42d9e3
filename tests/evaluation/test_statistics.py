"""Statistics against SciPy, against slow versions, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kd_env.evaluation.statistics import distributions as d
from kd_env.evaluation.statistics import intervals as s


@pytest.mark.parametrize("dof", [1, 2, 3, 4, 5, 9, 10, 29, 100])
def test_student_t_agrees_with_scipy(dof: int) -> None:
    for t in (-40.0, -3.0, -0.2, 0.0, 0.7, 2.5, 12.0):
        assert d.t_cdf(t, dof) == pytest.approx(stats.t.cdf(t, dof), abs=1e-12)
    for p in (0.001, 0.025, 0.4, 0.5, 0.9, 0.975, 0.9999):
        assert d.t_quantile(p, dof) == pytest.approx(stats.t.ppf(p, dof), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("dof", [1.0, 1.5, 2.7, 7.31, 58.2, 2000.5])
def test_student_t_with_fractional_degrees_of_freedom(dof: float) -> None:
    for t in (-40.0, -3.0, 0.0, 0.7, 2.5, 12.0):
        assert d.t_cdf(t, dof) == pytest.approx(stats.t.cdf(t, dof), abs=1e-12)
    assert d.t_cdf(1e-9, 1.0) - 0.5 == pytest.approx(math.atan(1e-9) / math.pi, rel=1e-6)  # SciPy gives 0 here
    for p in (0.001, 0.4, 0.975, 0.9999):
        assert d.t_quantile(p, dof) == pytest.approx(stats.t.ppf(p, dof), rel=1e-9)


@pytest.mark.parametrize(("first", "second"), [(1, 4), (4, 36), (9, 36), (59, 236), (4, 1000)])
def test_f_quantiles_agree_with_scipy(first: int, second: int) -> None:
    for p in (0.05, 0.5, 0.75, 0.99):
        assert d.f_quantile(p, first, second) == pytest.approx(stats.f.ppf(p, first, second), rel=1e-9)


@pytest.mark.parametrize("dof", [2.0, 2.7, 4, 9.3, 29, 800])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_the_detectable_shift_is_that_of_the_noncentral_t(dof: float, power: float) -> None:
    shift, bound = d.detectable_shift(dof, power), stats.t.ppf(0.975, dof)
    found = stats.nct.sf(bound, dof, shift) + stats.nct.cdf(-bound, dof, shift)
    assert found == pytest.approx(power, abs=5e-4)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@settings(max_examples=50, deadline=None)
def test_interval_agrees_with_scipy(values: list[float], level: float) -> None:
    got = s.t_interval(values, level)
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    assert got.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert got.high - got.mean == pytest.approx(half, rel=1e-9, abs=1e-9)
    assert got.mean - got.low == pytest.approx(half, rel=1e-9, abs=1e-9)
    assert got.units == len(values)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.sampled_from([(0.0, 1.0), (-1.0, 1.0)]))
@settings(max_examples=100, deadline=None)
def test_intervals_of_bounded_metrics_stay_inside(values: list[float], bounds: tuple[float, float]) -> None:
    got, plain = s.t_interval(values, bounds=bounds), s.t_interval(values)
    assert bounds[0] <= got.low <= got.mean <= got.high <= bounds[1]
    assert got.mean == plain.mean


def test_the_bounded_interval_by_its_definition_and_at_the_bound() -> None:
    two = s.t_interval([0.79, 0.894], bounds=(0.0, 1.0))  # the t interval reaches from 0.18 to 1.50
    assert s.t_interval([0.79, 0.894]).high > 1.5 and 0 < two.low < 0.79 and 0.894 < two.high < 1
    values = [0.7, 0.8, 0.9, 0.85]
    mean, half = np.mean(values), s.t_interval(values).half_width
    means = np.linspace(0, 1, 1_000_001)
    inside = means[np.abs(means - mean) <= half * np.sqrt(means * (1 - means) / mean / (1 - mean))]
    got = s.t_interval(values, bounds=(0.0, 1.0))
    assert [got.low, got.high] == pytest.approx([inside[0], inside[-1]], abs=2e-6)
    scaled = s.t_interval(2 * np.array(values) - 1, bounds=(-1.0, 1.0))
    assert [scaled.low, scaled.high] == pytest.approx([2 * got.low - 1, 2 * got.high - 1])
    share = s.t_interval(np.repeat([1.0, 0.0], [45, 5]), bounds=(0.0, 1.0))  # of a share it is Wilson's, but for t
    wilson = stats.binomtest(45, 50).proportion_ci(
        2 * stats.norm.cdf(stats.t.ppf(0.975, 49) * (50 / 49) ** 0.5) - 1, "wilson"
    )
    assert [share.low, share.high] == pytest.approx([wilson.low, wilson.high])
    near = s.t_interval([0.5, 0.5001, 0.4999], bounds=(0.0, 1.0))  # far from the bounds it is the t interval
    assert near.half_width == pytest.approx(s.t_interval([0.5, 0.5001, 0.4999]).half_width, rel=1e-4)
    ones = s.t_interval([1.0, 1.0, 1.0], bounds=(0.0, 1.0))
    assert (ones.low, ones.mean, ones.high) == (1.0, 1.0, 1.0)
    assert s.t_interval([-1.0, -1.0], bounds=(-1.0, 1.0)).high == -1.0
    almost = s.t_interval([1.0, 1.0, 0.99], bounds=(0.0, 1.0))
    assert 0.5 < almost.low < almost.high <= 1.0
    with pytest.raises(ValueError, match="outside its bounds"):
        s.t_interval([1.2, 1.3], bounds=(0.0, 1.0))


def test_one_unit_says_nothing_about_the_spread() -> None:
    for bounds in (None, (0.0, 1.0)):
        got = s.t_interval([0.4], bounds=bounds)
        assert (got.mean, got.low, got.high) == (0.4, -math.inf, math.inf)
    one = s.paired_difference([1.0], [0.0])
    assert not one.claim and not one.tie and one.p_value == 1.0 and "no interval can be given" in one.reading


def test_paired_difference_agrees_with_scipy_and_uses_the_pairs() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(0, 10, 8)
    first, second = base + generator.normal(0.5, 0.1, 8), base
    got = s.paired_difference(first, second)
    assert got.p_value == pytest.approx(stats.ttest_rel(first, second).pvalue, abs=1e-10)
    assert got.unit == "evaluation seed" and not got.claim and got.reading == "8 seeds: shown, no claim"
    # Unpaired, the spread of the seeds would drown the difference.
    assert stats.ttest_ind(first, second).pvalue > 0.5


def test_trainings_with_a_seed_each_count_as_both() -> None:
    values = 1 + 0.01 * np.random.default_rng(1).normal(size=30)
    got = s.paired_difference(values, np.zeros(30), trained=True)
    assert got.claim and got.design == "30 trainings, a seed each"
    few = s.paired_difference(values[:29], np.zeros(29), trained=True)
    assert not few.claim and few.reading == "29 trainings, a seed each: shown, no claim"
    assert s.paired_difference(values, np.zeros(30)).claim is False


def test_seeds_of_one_policy_are_never_a_claim_and_a_tie_says_what_can_be_detected() -> None:
    assert not s.paired_difference(np.full(60, 1.0) + np.arange(60) / 1e6, np.zeros(60)).claim
    tie = s.paired_difference([1.0, -1, 1, -1, 1, -1], np.zeros(6))
    assert tie.tie and tie.reading == f"tie: smaller than what 6 seeds can detect ({tie.detectable:.3f})"
    assert tie.detectable == pytest.approx(d.detectable_shift(5) * stats.sem([1.0, -1, 1, -1, 1, -1]))


@pytest.mark.parametrize("p", [[0.01, 0.04, 0.03, 0.005], [0.5], [1.0, 1.0, 0.0], []])
def test_holm_against_the_definition(p: list[float]) -> None:
    slow = []
    for value in p:
        smaller = [other for other in p if other <= value]
        slow.append(max((min(1.0, (len(p) - sum(q < o for q in p)) * o) for o in smaller), default=1.0))
    assert s.holm(p) == pytest.approx(slow)


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
        (lambda: d.detectable_shift(4, power=1.5), "power=1.5"),
        (lambda: s.bootstrap_examples(lambda rows: 0.0, 0, seed=0), "rows=0"),
        (lambda: d.t_quantile(0.0, 4), "probability"),
    ],
)
def test_bad_input_is_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
