"""Several problems: pooled differences, profiles, the probability of improvement, and the power of a study."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kd_env.evaluation.statistics import crossed, intervals, power, profiles, resampling
from kd_env.evaluation.statistics.pooled import pooled_difference, pooled_error
from tests.evaluation.test_crossed import COMPONENTS, draw


def values(seed: int, trainings: int = 5, seeds: int = 8) -> np.ndarray:
    return draw(np.random.default_rng(seed), (1.0, 1.0, 1.0), trainings, seeds, 1)[0]


# -- pooled differences ------------------------------------------------------------------------------------------------


def test_one_problem_is_the_crossed_difference() -> None:
    a, b, rule = values(0), values(1, 6), values(2, 1)[0]
    for first, second, paired in ((a, b, False), (a, rule, False), (a, a - values(3), True), (a, b[:1], False)):
        one, pooled = (
            crossed.policy_difference(first, second, 0.9, paired),
            pooled_difference({"x": (first, second)}, 0.9, paired),
        )
        for name in ("mean", "low", "high", "level", "seeds"):
            assert getattr(pooled.interval, name) == pytest.approx(getattr(one.interval, name), rel=1e-12)
        assert (pooled.p_value, pooled.detectable) == pytest.approx((one.p_value, one.detectable))
        assert (pooled.unit, pooled.claim) == (one.unit, one.claim)
    back = pooled_difference({"x": (rule[None], b)})
    assert back.interval.high == pytest.approx(crossed.policy_difference(rule[None], b).interval.high)
    assert pooled_difference({"x": (a, b)}).design == "1 problem x 5 + 6 trainings x 8 seeds"


def test_single_trainings_agree_with_welch() -> None:
    """One policy against one: a sum of independent t statistics, as SciPy has it for two samples."""
    x, y = np.random.default_rng(0).normal(size=9), 3 * np.random.default_rng(1).normal(size=6) + 1
    got = pooled_difference({"x": (x[None], np.zeros(9)), "y": (-y[None], np.zeros(6))})
    welch = stats.ttest_ind(x, y, equal_var=False)
    low, high = welch.confidence_interval(0.95)
    assert got.p_value == pytest.approx(welch.pvalue, rel=1e-9)
    assert (2 * got.interval.low, 2 * got.interval.high) == pytest.approx((low, high), rel=1e-9)
    assert got.unit == "evaluation seed" and not got.claim and got.interval.units == 6 and got.interval.seeds is None
    assert got.design == "2 problems x at least 6 seeds"


@pytest.mark.parametrize("problems", [3, 8])
@pytest.mark.parametrize(("trainings", "agent"), [(5, False), (10, True)])
def test_pooled_intervals_cover_at_their_level(problems: int, trainings: int, agent: bool) -> None:
    """Over ratios of the three variances, the same in all problems and different ones."""
    count = 1200
    for kinds in (["training"], ["seed"], ["mixed"], list(COMPONENTS)):
        generator = np.random.default_rng(7)
        errors, dofs, means = [], [], np.zeros(count)
        for index in range(problems):
            scale = 1.0 if len(kinds) == 1 else 2.0**-index
            variances = COMPONENTS[kinds[index % len(kinds)]]
            groups = [scale * draw(generator, variances, trainings, 30, count) for _ in range(1 + agent)]
            error, dof = crossed.standard_error(groups)
            errors, dofs = [*errors, error], [*dofs, dof]
            means += groups[0].mean(axis=(1, 2)) - (groups[1].mean(axis=(1, 2)) if agent else 0)
            if index == problems - 1 and kinds == ["mixed"]:  # what is simulated is what the function says
                last = {"a": (groups[0][0], groups[1][0] if agent else np.zeros(30))}
                assert pooled_difference(last).interval.half_width == pytest.approx(
                    stats.t.ppf(0.975, dof[0]) * error[0]
                )
        error, dof = pooled_error(np.array(errors), np.array(dofs))
        covered = np.abs(means / problems) <= stats.t.ppf(0.975, dof) * error
        assert 0.93 <= covered.mean() <= 0.975, kinds


@given(st.integers(2, 4), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_pooling_is_symmetric_and_narrower(problems: int, seed: int) -> None:
    pairs = {f"p{i}": (values(seed + i, 2 + i, 4 + i), values(seed + 10 + i, 2 + i, 4 + i)) for i in range(problems)}
    got = pooled_difference(pairs)
    turned = pooled_difference({name: (b, a) for name, (a, b) in reversed(pairs.items())})
    assert turned.interval.low == pytest.approx(-got.interval.high, abs=1e-12)
    parts = [crossed.crossed_difference(a, b) for a, b in pairs.values()]
    assert got.interval.mean == pytest.approx(np.mean([part.interval.mean for part in parts]))
    assert got.interval.half_width <= max(part.interval.half_width for part in parts) + 1e-12
    scaled = pooled_difference({name: (4 * a + 3, 4 * b + 3) for name, (a, b) in pairs.items()})
    assert scaled.interval.low == pytest.approx(4 * got.interval.low)


def test_a_claim_needs_trainings_and_seeds_in_every_problem() -> None:
    full = {name: (values(i, 5, 30) + 50, np.zeros(30)) for i, name in enumerate("abc")}
    claimed = pooled_difference(full)
    assert claimed.claim and claimed.reading == "the interval excludes 0 (3 problems x 5 trainings x 30 seeds)"
    assert claimed.groups == () and claimed.interval.units == 5
    for other in (values(3, 4, 30), values(3, 5, 29), values(3, 1, 30)):
        short = pooled_difference({**full, "d": (other + 50, np.zeros(other.shape[1]))})
        assert not short.claim and not short.interval.contains_zero
        assert short.reading.startswith("4 problems x at least ") and short.reading.endswith("shown, no claim")
    same = pooled_difference({"a": (np.ones((5, 30)), np.ones(30)), "b": (np.ones((5, 30)), np.ones(30))})
    assert (same.interval.low, same.interval.high, same.p_value) == (0, 0, 1)
    one_seed = pooled_difference({**full, "d": (values(4, 5, 1), np.zeros(1))})
    assert math.isinf(one_seed.interval.low) and math.isinf(one_seed.detectable) and not one_seed.claim
    assert "no interval" in one_seed.reading


# -- profiles and the probability of improvement -----------------------------------------------------------------------


def resampled(scores: np.ndarray, key: tuple[int, int], kind: int, count: int) -> list[list[int]]:
    """The same draws as lists of drawn trainings (kind 1, 2) or seeds (0), a resample each."""
    units = scores.shape[0 if kind else 1]
    counts = resampling.Stream(units, (*key, kind)).take(count)
    return [[unit for unit in range(units) for _ in range(int(counts[unit, b]))] for b in range(count)]


def test_the_fast_bootstrap_is_the_obvious_one() -> None:
    taus, count = np.array([-1.0, -0.2, 0.0, 0.9]), 300
    first = {"x": np.round(values(0, 4, 6), 1), "y": np.round(values(1, 3, 5), 1)}
    second = {"x": np.round(values(2, 3, 6), 1), "y": np.round(values(3, 1, 5), 1)}
    shares, wins = np.zeros((count, len(taus))), np.zeros(count)
    for index, problem in enumerate(first):
        a, b = first[problem], second[problem]
        seeds, mine = (resampled(a, (5, index), kind, count) for kind in (0, 1))
        theirs = resampled(b, (5, index), 2, count)
        for n in range(count):
            drawn = [a[r, s] for r in mine[n] for s in seeds[n]]
            shares[n] += [sum(x >= tau for x in drawn) / len(drawn) / 2 for tau in taus]
            pairs = [(a[r, s], b[q, s]) for r in mine[n] for q in theirs[n] for s in seeds[n]]
            wins[n] += sum((x > y) + (x == y) / 2 for x, y in pairs) / len(pairs) / 2
    tail = NormalDist().cdf(-stats.t.ppf(0.95, 3 + 2))
    places = math.floor(tail * (count - 1)), math.ceil((1 - tail) * (count - 1))
    profile = profiles.performance_profile(first, taus, level=0.9, resamples=count, seed=5)
    expected = np.sort(shares, axis=0)
    np.testing.assert_allclose(profile.low, np.minimum(expected[places[0]], profile.shares), atol=1e-6)
    np.testing.assert_allclose(profile.high, np.maximum(expected[places[1]], profile.shares), atol=1e-6)
    by_hand = [np.mean([np.mean(x >= tau) for x in first.values()]) for tau in taus]
    assert profile.shares == pytest.approx(by_hand)
    assert (profile.problems, profile.units, profile.seeds) == (2, 3, 5)
    tail = NormalDist().cdf(-stats.t.ppf(0.95, 2 + 2))
    places = math.floor(tail * (count - 1)), math.ceil((1 - tail) * (count - 1))
    interval = profiles.probability_of_improvement(first, second, level=0.9, resamples=count, seed=5)
    assert (interval.low, interval.high) == pytest.approx([np.sort(wins)[place] for place in places], abs=1e-6)
    # Other policies beside it change nothing.
    many = profiles.performance_profiles({"a": first, "b": second}, taus, level=0.9, resamples=count, seed=5)
    np.testing.assert_array_equal(many["a"].low, profile.low)
    several = profiles.probabilities_of_improvement(first, {"b": second, "a": first}, 0.9, count, 5)
    assert several["b"] == interval and several["a"].mean == pytest.approx(0.5)


def test_draws_have_the_spread_of_means_and_run_over_chunks() -> None:
    for units in (5, 300):
        stream = resampling.Stream(units, (0,))
        counts = np.concatenate([stream.take(400), stream.take(400)], axis=1).astype(float)
        assert counts.shape == (units, 800) and set(counts.sum(axis=0)) == {units - 1.0}
        x = np.random.default_rng(0).normal(size=units)
        means = x @ counts / (units - 1)
        assert means.std() == pytest.approx(x.std(ddof=1) / math.sqrt(units), rel=0.1)
    assert [part.stop - part.start for part in resampling.chunks(20_000)] == [8192, 8192, 3616]
    # Weights that 16 bits cannot hold are still exact.
    wide = resampling.cells(np.full((300, 1), 299, np.uint16), np.full((300, 1), 299, np.uint16))
    assert wide[0, 0] == 299**2 and wide.dtype == np.float32


def test_the_probability_of_improvement_is_mann_and_whitneys() -> None:
    """Of one seed every pair of trainings is compared, as SciPy does; several problems are their mean."""
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 6, (7, 1)), generator.integers(0, 6, (9, 1))
    u = stats.mannwhitneyu(a[:, 0], b[:, 0]).statistic / 63
    got = profiles.probability_of_improvement({"x": a}, {"x": b}, resamples=10)
    assert got.mean == pytest.approx(u) and math.isinf(got.low) and math.isinf(got.high)
    both = profiles.probability_of_improvement({"x": a, "y": a + 9}, {"x": b, "y": b}, resamples=10)
    assert both.mean == pytest.approx((u + 1) / 2)
    # Seeds are paired: a policy that is better by a little on each of very different seeds is better always.
    seeds = 100 * generator.normal(size=8)
    ahead = profiles.probability_of_improvement({"x": values(1) / 100 + seeds + 1}, {"x": seeds}, resamples=50)
    assert (ahead.low, ahead.mean, ahead.high, ahead.units, ahead.seeds) == (1, 1, 1, 5, 8)


@given(st.integers(1, 4), st.integers(2, 6), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_profiles_fall_and_improvements_add_up_to_one(trainings: int, seeds: int, seed: int) -> None:
    x = {"a": np.round(values(seed, trainings, seeds)), "b": np.round(values(seed + 1, 3, seeds))}
    y = {"b": np.round(values(seed + 2, 2, seeds)), "a": np.round(values(seed + 3, 1, seeds))[0]}
    profile = profiles.performance_profile(x, np.linspace(-9, 9, 13), resamples=64, seed=seed)
    for curve in (profile.low, profile.shares, profile.high):
        assert np.all(np.diff(curve) <= 0) and curve[0] == 1 and curve[-1] == 0
    assert np.all((profile.low <= profile.shares) & (profile.shares <= profile.high))
    ours, theirs = (profiles.probability_of_improvement(*pair, resamples=64) for pair in ((x, y), (y, x)))
    assert ours.mean + theirs.mean == pytest.approx(1) and 0 <= ours.low <= ours.mean <= ours.high <= 1
    shifted = {name: 2 * value + 1 for name, value in x.items()}
    moved = profiles.performance_profile(shifted, 2 * profile.thresholds + 1, resamples=64, seed=seed)
    np.testing.assert_array_equal(moved.low, profile.low)


def test_bands_cover() -> None:
    taus, truth, count = np.array([0.0, 1.5]), np.array([0.5, NormalDist().cdf(-1.5 / math.sqrt(3))]), 150
    draws = [draw(np.random.default_rng(i), COMPONENTS["mixed"], 5, 30, count) for i in range(6)]
    inside, improved = np.zeros(2), 0
    for n in range(count):
        x, y = ({str(i): draws[i + start][n] for i in range(3)} for start in (0, 3))
        profile = profiles.performance_profile(x, taus, resamples=400, seed=n)
        inside += (profile.low <= truth) & (truth <= profile.high)
        interval = profiles.probability_of_improvement(x, y, resamples=400, seed=n)
        improved += interval.low <= 0.5 <= interval.high
    assert np.all(inside / count >= [0.92, 0.88]) and improved / count >= 0.92


def test_small_designs_of_profiles() -> None:
    rule = profiles.performance_profile({"x": values(0, 1, 9)[0]}, [0.0], resamples=200)
    assert 0 <= rule.low[0] < rule.shares[0] < rule.high[0] <= 1 and rule.units == 1
    one_seed = profiles.performance_profile({"x": values(0, 5, 1), "y": values(1)}, [0.0], resamples=20)
    assert math.isinf(one_seed.low[0]) and math.isinf(one_seed.high[0]) and 0 < one_seed.shares[0] < 1
    equal = profiles.performance_profile({"x": np.full((5, 8), 0.25)}, [0.25, 0.26], resamples=20)
    assert (*equal.low, *equal.high) == (1, 0, 1, 0)
    tie = profiles.probability_of_improvement({"x": np.ones((2, 3))}, {"x": np.ones(3)}, resamples=20)
    assert (tie.low, tie.mean, tie.high) == (0.5, 0.5, 0.5)


# -- the power of a study ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["training", "seed", "mixed"])
@pytest.mark.parametrize("agent", [False, True])
def test_the_planned_difference_is_found_in_four_of_five_studies(kind: str, agent: bool) -> None:
    generator = np.random.default_rng(3)
    pilot = draw(generator, COMPONENTS[kind], 300, 300, 1 + agent)
    planned = power.planned_difference(pilot[0], pilot[1] if agent else np.zeros(300), (5, 10), 30)
    assert planned[10] < planned[5] and list(planned) == [5, 10]
    # Two agents that share no seed effect: their difference has the sum of both.
    studies = [draw(generator, COMPONENTS[kind], 10, 30, 1500) for _ in range(1 + agent)]
    error, dof = crossed.standard_error(studies)
    difference = studies[0].mean(axis=(1, 2)) - (studies[1].mean(axis=(1, 2)) if agent else 0)
    found = np.abs(difference + planned[10]) > stats.t.ppf(0.975, dof) * error
    assert found.mean() == pytest.approx(0.8, abs=0.06)


def test_components_are_those_drawn_and_never_below_zero() -> None:
    [x] = draw(np.random.default_rng(0), (4.0, 1.0, 0.25), 400, 400, 1)
    got = power.components(x, np.zeros(400))
    assert (got.trainings[0], got.seeds, got.interactions[0]) == pytest.approx((4.0, 1.0, 0.25), rel=0.2)
    noise = [power.components(draw(np.random.default_rng(i), (0, 0, 1.0), 3, 4, 1)[0], np.zeros(4)) for i in range(20)]
    assert min(found.trainings[0] for found in noise) == 0 == min(found.seeds for found in noise)
    assert power.detectable(np.ones((3, 4)), np.ones(4), 5, 30) == 0
    a, b = values(0), values(1)
    assert power.detectable(a, b, 10, 30, power=0.9) > power.planned_difference(a, b, [10], 30)[10]
    # The pilot's own design: the detectable difference of the study that it was.
    big = 5 * values(4, 8, 20) - 10
    own = crossed.crossed_difference(big, np.zeros(20)).detectable
    assert power.detectable(big, np.zeros(20), 8, 20) == pytest.approx(own, rel=1e-9)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pooled_difference({}), "at least one problem"),
        (lambda: pooled_difference({"cola": (values(0), np.zeros(7))}), r"'cola' has values of \(5, 8\) and \(7,\)"),
        (lambda: pooled_difference({"cola": (values(0), values(0, 4))}, paired=True), "not the same seeds or training"),
        (lambda: pooled_difference({"rte": (np.full((2, 2), np.nan), np.zeros(2))}), "'rte' holds a non-finite"),
        (lambda: pooled_difference({"rte": (values(0), np.zeros(8))}, level=2), "level=2"),
        (lambda: profiles.performance_profile({}, [0.0]), "at least one policy"),
        (lambda: profiles.performance_profile({"x": [[math.inf]]}, [0.0]), "'policy' in the problem 'x' holds a non"),
        (lambda: profiles.performance_profile({"x": values(0)}, [1.0, 1.0]), "thresholds must rise"),
        (lambda: profiles.performance_profile({"x": values(0)}, [1.0], resamples=0), "resamples=0"),
        (
            lambda: profiles.performance_profiles({"a": {"x": values(0), "y": values(0)}, "b": {"x": values(0)}}, [0]),
            r"'b' has no values of the problems \['y'\].*It has: \['x'\]",
        ),
        (
            lambda: profiles.probability_of_improvement({"x": values(0)}, {"x": values(0), "z": values(0)}),
            r"'first' has no values of the problems \['z'\]",
        ),
        (
            lambda: profiles.probability_of_improvement({"x": values(0)}, {"x": np.zeros(3)}),
            "'x' has 8 evaluation seeds of the first policy and 3 of 'second'",
        ),
        (lambda: power.detectable(values(0, 1), np.zeros(8), 5, 30), r"at least 2 trainings.*got \(1, 8\)"),
        (lambda: power.detectable(values(0), np.zeros(8), 1, 30), "got 1 x 30"),
        (lambda: power.planned_difference(values(0), np.zeros(9), [5], 30), "not of the same seeds"),
        (lambda: power.detectable(values(0), np.zeros(8), 5, 30, power=1.0), "power=1.0"),
    ],
)
def test_bad_input_is_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_levels_agree_with_the_other_intervals() -> None:
    """One training of one problem: the seeds of that policy, as the t interval over them."""
    x = values(0, 1, 12)
    got, one = pooled_difference({"x": (x, np.zeros(12))}, 0.8), intervals.t_interval(x[0], 0.8)
    assert (got.interval.low, got.interval.high) == pytest.approx((one.low, one.high))
