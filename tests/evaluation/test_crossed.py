"""Trainings and evaluation seeds as crossed random effects: against sums of squares by hand, and by simulation."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kd_env.evaluation.statistics import crossed as c
from kd_env.evaluation.statistics import intervals as s
from kd_env.evaluation.statistics.distributions import detectable_shift

COMPONENTS = {
    "training": (1.0, 0.01, 0.05),
    "seed": (0.01, 1.0, 0.05),
    "interaction": (0.01, 0.01, 1.0),
    "mixed": (1.0, 1.0, 1.0),
    "no seeds": (1.0, 0.0, 1.0),
    "no trainings": (0.0, 1.0, 1.0),
}
"""Variances of trainings, seeds and their interaction."""


def draw(
    generator: np.random.Generator, variances: tuple[float, float, float], trainings: int, seeds: int, count: int
) -> np.ndarray:
    a, b, e = (math.sqrt(value) for value in variances)
    shapes = (count, trainings, 1), (count, 1, seeds), (count, trainings, seeds)
    return sum(scale * generator.normal(size=shape) for scale, shape in zip((a, b, e), shapes, strict=True))


def slow(values: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of trainings, seeds and interaction, one value after the other."""
    rows, columns = values.shape
    grand = sum(map(sum, values)) / values.size
    by_row, by_column = [sum(row) / columns for row in values], [sum(column) / rows for column in values.T]
    of_rows = columns * sum((m - grand) ** 2 for m in by_row) / (rows - 1)
    of_columns = rows * sum((m - grand) ** 2 for m in by_column) / (columns - 1)
    rest = sum((values[i, j] - by_row[i] - by_column[j] + grand) ** 2 for i in range(rows) for j in range(columns)) / (
        (rows - 1) * (columns - 1)
    )
    return of_rows, of_columns, rest


@pytest.mark.parametrize(("trainings", "seeds"), [(5, 10), (7, 5), (10, 30)])
@pytest.mark.parametrize("kind", COMPONENTS)
def test_agrees_with_sums_of_squares_by_hand(trainings: int, seeds: int, kind: str) -> None:
    for index in range(5):
        [values] = draw(np.random.default_rng(index), COMPONENTS[kind], trainings, seeds, 1)
        a, b, e = slow(values)
        n, noise = trainings * seeds, (trainings - 1) * (seeds - 1)
        variance = max(a + b - e, a, b) / n
        dof = variance**2 / ((a / n) ** 2 / (trainings - 1) + (b / n) ** 2 / (seeds - 1) + (e / n) ** 2 / noise)
        dof = max(dof, min(trainings, seeds) - 1)
        if a <= e or b <= e:
            dof = trainings - 1 if a > b else seeds - 1
        if stats.f.cdf(a / e, trainings - 1, noise) <= 0.75 and stats.f.cdf(b / e, seeds - 1, noise) <= 0.75:
            variance, dof = values.var(axis=0, ddof=1).mean() / n, (trainings - 1) * seeds
            variance = (a * (trainings - 1) + e * noise) / (trainings - 1) / seeds / n
        got = c.crossed_interval(values)
        half = stats.t.ppf(0.975, dof) * math.sqrt(variance)
        assert (got.low, got.high) == (
            pytest.approx(values.mean() - half, rel=1e-9),
            pytest.approx(values.mean() + half, rel=1e-9),
        )
        assert (got.units, got.seeds) == (trainings, seeds)
        difference = c.crossed_difference(values, np.zeros(seeds))
        p = 2 * stats.t.sf(abs(values.mean()) / math.sqrt(variance), dof)
        assert difference.p_value == pytest.approx(p, rel=1e-8)
        assert difference.detectable == pytest.approx(detectable_shift(dof) * math.sqrt(variance), rel=1e-6)


def test_the_limits_are_the_intervals_over_one_of_the_two() -> None:
    generator = np.random.default_rng(0)
    seeds, trainings = generator.normal(size=(1, 12)).repeat(6, 0), generator.normal(size=(6, 1)).repeat(12, 1)
    for values, expected in ((seeds, s.t_interval(seeds[0])), (trainings, s.t_interval(trainings[:, 0]))):
        got = c.crossed_interval(values)
        assert (got.low, got.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    same = c.crossed_interval(np.full((5, 8), 0.25))
    assert (same.low, same.mean, same.high) == (0.25, 0.25, 0.25)
    assert c.crossed_difference(np.ones((5, 30)), np.ones(30)).p_value == 1.0
    assert c.crossed_difference(np.ones((5, 30)), np.zeros((6, 30))).claim


@given(st.integers(2, 7), st.integers(2, 9), st.integers(0, 10_000), st.sampled_from([1e-8, 1.0, 1e6]))
@settings(max_examples=60, deadline=None)
def test_identities(trainings: int, seeds: int, seed: int, scale: float) -> None:
    generator = np.random.default_rng(seed)
    [values] = scale * draw(generator, tuple(generator.uniform(0, 1, 3)), trainings, seeds, 1)
    [other] = scale * draw(generator, (1.0, 1.0, 1.0), int(generator.integers(2, 6)), seeds, 1)
    got = c.crossed_difference(values, other)
    back = c.turned(c.crossed_difference(other, values))
    assert [got.interval.mean, got.interval.low] == pytest.approx([back.interval.mean, back.interval.low], abs=1e-15)
    # Seeds are shared: what happens to a seed under both policies is no part of the difference.
    shift = scale * 10 * generator.normal(size=seeds)
    moved = c.crossed_difference(values + shift, other + shift)
    assert moved.interval.low == pytest.approx(got.interval.low, rel=1e-6, abs=1e-7 * scale)
    error, _ = c.standard_error([values])
    means, effects = values.mean(1), values.mean(0)
    least = max(means.var(ddof=1) / trainings, effects.var(ddof=1) / seeds)
    pooled = trainings >= 5 and seeds >= 5
    assert pooled or error**2 >= least * (1 - 1e-9)


@pytest.mark.parametrize(("trainings", "seeds"), [(5, 10), (5, 60), (10, 20)])
@pytest.mark.parametrize("kind", COMPONENTS)
def test_intervals_cover_at_their_level(trainings: int, seeds: int, kind: str) -> None:
    values = draw(np.random.default_rng(1), COMPONENTS[kind], trainings, seeds, 4000)
    error, dof = c.standard_error([values])
    covered = np.abs(values.mean(axis=(1, 2))) <= stats.t.ppf(0.975, dof) * error
    assert 0.93 <= covered.mean() <= 0.97
    if kind == "seed":  # the interval over the means of trainings takes the seeds as they are
        means = values.mean(axis=2)
        nested = stats.t.ppf(0.975, trainings - 1) * means.std(axis=1, ddof=1) / math.sqrt(trainings)
        assert (np.abs(means.mean(axis=1)) <= nested).mean() < 0.65


@pytest.mark.parametrize(("first", "second", "seeds"), [(5, 5, 10), (5, 5, 60), (10, 10, 20), (5, 12, 30)])
@pytest.mark.parametrize("kinds", [("training", "seed"), ("mixed", "mixed"), ("interaction", "training")])
def test_differences_of_two_groups_cover(first: int, second: int, seeds: int, kinds: tuple[str, str]) -> None:
    generator = np.random.default_rng(2)
    shared = 3 * generator.normal(size=(4000, 1, seeds))
    a = draw(generator, COMPONENTS[kinds[0]], first, seeds, 4000) + shared
    b = draw(generator, COMPONENTS[kinds[1]], second, seeds, 4000) + shared
    error, dof = c.standard_error([a, b])
    difference = a.mean(axis=(1, 2)) - b.mean(axis=(1, 2))
    assert 0.93 <= (np.abs(difference) <= stats.t.ppf(0.975, dof) * error).mean() <= 0.97


@pytest.mark.parametrize(("trainings", "seeds"), [(2, 10), (3, 10), (4, 60), (20, 2)])
def test_few_trainings_or_seeds_get_long_intervals_rather_than_short_ones(trainings: int, seeds: int) -> None:
    for variances in COMPONENTS.values():
        values = draw(np.random.default_rng(3), variances, trainings, seeds, 4000)
        error, dof = c.standard_error([values])
        assert (np.abs(values.mean(axis=(1, 2))) <= stats.t.ppf(0.975, dof) * error).mean() >= 0.94


@pytest.mark.parametrize("kind", ["training", "seed", "mixed"])
def test_the_detectable_difference_is_found_in_four_of_five_studies(kind: str) -> None:
    trainings, seeds, (a, b, e) = 8, 30, COMPONENTS[kind]
    true_error = math.sqrt(a / trainings + b / seeds + e / trainings / seeds)
    values = draw(np.random.default_rng(4), COMPONENTS[kind], trainings, seeds, 4000)
    error, dof = c.standard_error([values])
    shift = true_error * np.median([detectable_shift(float(d)) for d in dof[:50]])
    found = np.abs(values.mean(axis=(1, 2)) + shift) > stats.t.ppf(0.975, dof) * error
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_ten_seeds_that_lie_well_are_no_finding() -> None:
    """Ten seeds in favour of an agent that fifty others are against: +0.036, -0.083, over all -0.063.

    The interval over training means excluded the truth on either side.
    """
    generator = np.random.default_rng(5)
    effects = generator.normal(0, 0.19, 60)
    effects[:10] += 0.036 - effects[:10].mean()
    effects[10:] += -0.083 - effects[10:].mean()
    agent = effects + generator.normal(0, 0.002, (5, 1)) + generator.normal(0, 0.01, (5, 60))
    truth = effects.mean()
    nested = s.t_interval(agent[:, :10].mean(axis=1))
    assert nested.low > 0.02 > truth
    ten, sixty = c.policy_difference(agent[:, :10], np.zeros(10)), c.policy_difference(agent, np.zeros(60))
    assert ten.interval.low < truth < ten.interval.high and ten.tie and not ten.claim
    assert ten.reading == f"tie: smaller than what 5 trainings x 10 seeds can detect ({ten.detectable:.3f})"
    assert sixty.interval.high < 0 and sixty.claim and sixty.interval.half_width == pytest.approx(0.047, abs=0.01)


def test_what_can_be_said_of_small_designs() -> None:
    generator = np.random.default_rng(6)
    values, rule = generator.normal(1, 0.1, (5, 30)), generator.normal(0, 0.1, 30)
    full = c.policy_difference(values, rule)
    assert full.claim and full.unit == "training" and full.reading == "the interval excludes 0 (5 trainings x 30 seeds)"
    few = c.policy_difference(values[:, :29], rule[:29])
    assert not few.claim and few.reading == "5 trainings x 29 seeds: shown, no claim"
    assert not c.policy_difference(values[:4], rule).claim
    single = c.policy_difference(values[:1], rule)
    assert single == s.paired_difference(values[0], rule) and single.unit == "evaluation seed"
    assert c.policy_interval(values[:1]) == s.t_interval(values[0])
    one_seed = c.policy_difference(values[:, :1], rule[:1])
    assert math.isinf(one_seed.interval.high) and one_seed.p_value == 1.0 and "no interval" in one_seed.reading
    assert math.isinf(c.policy_interval(values[:, :1]).high)
    # Another agent's single training is that one policy: no claim about the agent.
    other = c.policy_difference(values, rule[None])
    assert other.interval == full.interval and not other.claim
    assert c.policy_difference(rule[None], values).interval.high == -full.interval.low
    assert not c.policy_difference(rule[None], values).claim
    two = c.policy_difference(values, values - 1)
    assert two.claim and two.interval.units == 10 and two.interval.mean == pytest.approx(1)
    assert not c.policy_difference(values, values[:4] - 1).claim
    paired = c.crossed_difference(values, values - 1, paired=True)
    assert paired.interval.low == pytest.approx(1) and paired.interval.units == 5
    tie = c.policy_difference(values - 1, np.zeros(30))
    assert tie.tie and tie.reading == f"tie: smaller than what 5 trainings x 30 seeds can detect ({tie.detectable:.3f})"
    assert abs(tie.interval.mean) < tie.detectable


def test_bounded_values_over_both() -> None:
    values = np.clip(np.random.default_rng(7).normal(0.95, 0.1, (2, 10)), 0, 1)
    assert c.crossed_interval(values).high > 1
    got = c.crossed_interval(values, bounds=(0.0, 1.0))
    assert 0 < got.low < got.mean < got.high <= 1


def test_a_large_report_is_fast() -> None:
    generator = np.random.default_rng(8)
    begin = time.perf_counter()
    for _ in range(8):  # tasks
        agents, rules = generator.normal(size=(5, 10, 30)), generator.normal(size=(5, 30))
        for agent in agents:
            c.policy_interval(agent)
            for rule in rules:
                c.policy_difference(agent, rule)
        for index, agent in enumerate(agents):
            for other in agents[:index]:
                c.policy_difference(agent, other)
    assert time.perf_counter() - begin < 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: c.crossed_interval(np.ones((1, 10))), r"at least 2 of each, got 1 x 10.*another seed"),
        (lambda: c.crossed_interval(np.ones((5, 1))), "got 5 x 1"),
        (lambda: c.crossed_interval(np.ones(5)), "must have 2 axes"),
        (lambda: c.crossed_interval([[1.0, math.nan], [1.0, 2.0]]), "non-finite"),
        (lambda: c.crossed_difference(np.ones((1, 10)), np.ones(10)), "got 1 x 10"),
        (lambda: c.crossed_difference(np.ones((5, 10)), np.ones((1, 10))), "got 1 x 10"),
        (lambda: c.crossed_difference(np.ones((5, 10)), np.ones(7)), r"must have shape \(10,\)"),
        (lambda: c.crossed_difference(np.ones((5, 10)), np.ones((4, 10)), paired=True), r"must have shape \(5, 10\)"),
        (lambda: c.policy_difference(np.ones((5, 10)), np.ones(9)), "not of the same seeds"),
        (lambda: c.crossed_interval(np.ones((2, 2)), level=1.0), "level=1.0"),
    ],
)
def test_bad_input_is_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
