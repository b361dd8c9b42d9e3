"""Rules: what they choose, in every view; randomness by replica; memory; look-ahead; refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from identity import identity_vector_env
from terms import TermsEnv, TermsVectorEnv

from agents import RULES, Agent, agent_kind, load_agent, make_agent, make_rule
from kd_env.envs.process import with_options

VIEWS = ("native", "discrete", "box")
OPTIONS: dict[str, dict[str, Any]] = {
    "fixed": {"weights": {"relation": 1.0}},
    "stages": {"terms": ["relation", "soft_label", "hard_label"], "shares": [1, 2, 1]},
}
CHOOSING = {name: rule for name, rule in RULES.items() if rule.decision == "knowledge_selection"}
PAIRS = [(name, view) for name, rule in CHOOSING.items() for view in rule.views]


def play(rule: Any, env: Any, steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights ``[T, N, K]`` and gates ``[T, N]`` of a run across the ends of episodes."""
    observations, _ = env.reset(seed=seed)
    starts, state = np.ones(env.num_envs, dtype=bool), None
    weights, gates = [], []
    for _ in range(steps):
        actions, state = rule.predict(observations, state, starts, deterministic=True)
        assert env.action_space.contains(actions), (actions, env.action_space)
        decoded = [env.decode(action) for action in actions]
        weights.append([w for w, _ in decoded])
        gates.append([g for _, g in decoded])
        observations, _, terminated, truncated, _ = env.step(actions)
        starts = terminated | truncated
    return np.array(weights), np.array(gates)


@pytest.mark.parametrize(("name", "view"), PAIRS)
def test_every_rule_acts_in_every_view_it_names(name: str, view: str, tmp_path: Path) -> None:
    env = TermsVectorEnv(view=view)
    rule = make_agent(name, env, seed=1, **OPTIONS.get(name, {}))
    assert agent_kind(name) == "rule"
    assert isinstance(rule, Agent)
    assert rule.learn(1000, lambda metrics: True, progress_bar=False) is rule
    play(rule, env, 9)
    rule.save(tmp_path / "rule")
    twin = load_agent(tmp_path / "rule", env)
    first, second = play(rule, env, 9), play(twin, env, 9)  # goes on where the saved generators stood
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


@pytest.mark.parametrize(("name", "view"), [pair for pair in PAIRS if pair[0] != "greedy"])
def test_every_rule_takes_one_observation(name: str, view: str) -> None:
    env = TermsEnv(view=view)
    rule = make_rule(name, env, **OPTIONS.get(name, {}))
    action, _ = rule.predict(env.reset(seed=0)[0])
    assert env.action_space.contains(action)


@pytest.mark.parametrize("view", VIEWS)
def test_constant_rules(view: str) -> None:
    env = TermsVectorEnv(view=view)
    expected = {
        "all": [1, 1, 1],
        "hard_label_only": [1, 0, 0],
        "soft_label_only": [0, 1, 0],
        "fixed": [0, 0, 1],
    }
    for name, weights in expected.items():
        chosen, gates = play(make_rule(name, env, **OPTIONS.get(name, {})), env, 3)
        assert (chosen == weights).all()
        assert (gates == 1).all()


def test_fixed_takes_soft_weights_and_a_gate_in_the_box_view() -> None:
    env = TermsVectorEnv(view="box")
    rule = make_rule("fixed", env, weights={"soft_label": 0.25}, gate=0.5)
    chosen, gates = play(rule, env, 1)
    assert np.allclose(chosen, [0, 0.25, 0])
    assert np.allclose(gates, 0.5)
    with pytest.raises(ValueError, match="cannot express"):
        make_rule("fixed", TermsVectorEnv(view="native"), weights={"soft_label": 0.25})


@pytest.mark.parametrize("name", ["random_hard", "random_soft", "random_gate"])
def test_a_replica_draws_the_same_whatever_their_number(name: str) -> None:
    few = TermsVectorEnv((5, 5), view="box")
    many = TermsVectorEnv((5,) * 6, view="box")
    one, other = (play(make_rule(name, env, seed=3), env, 20) for env in (few, many))
    assert np.array_equal(one[0], other[0][:, :2])
    assert np.array_equal(one[1], other[1][:, :2])
    different = play(make_rule(name, few, seed=4), few, 20)
    chosen = 1 if name == "random_gate" else 0
    assert not np.array_equal(one[chosen], different[chosen])
    assert not np.array_equal(one[chosen][:, 0], one[chosen][:, 1])


def test_random_rules_have_their_distributions() -> None:
    env = TermsVectorEnv((50,) * 4, view="box")
    hard, gates = play(make_rule("random_hard", env), env, 400)
    assert set(np.unique(hard)) == {0.0, 1.0}
    assert np.allclose(hard.mean(axis=(0, 1)), 0.5, atol=0.05)
    assert (gates == 1).all()
    soft, gates = play(make_rule("random_soft", env), env, 400)
    assert np.allclose(soft.mean(axis=(0, 1)), 0.5, atol=0.05)
    assert np.allclose(soft.std(axis=(0, 1)), 12**-0.5, atol=0.03)
    assert (gates == 1).all()
    full, gates = play(make_rule("random_gate", env), env, 400)
    assert (full == 1).all()
    assert gates.mean() == pytest.approx(0.5, abs=0.05)


def test_stages_take_turns_by_each_replicas_own_progress() -> None:
    """Against a slow count of updates; ends that are no round numbers in float32 fall where they should."""
    env = TermsVectorEnv((6, 15))
    stages = [["relation"], ["soft_label", "hard_label"], ["hard_label"]]
    for shares in (None, [1, 1, 1], [2.0, 1.0, 3.0]):
        chosen, gates = play(make_rule("stages", env, terms=stages, shares=shares), env, 6)
        assert (gates == 1).all()
        for replica, length in enumerate((6, 15)):
            for step in range(6):
                ends = np.cumsum(shares or [1, 1, 1]) * length / sum(shares or [1, 1, 1])
                at = next(stage for stage in range(3) if step < ends[stage] - 1e-9)
                on = {name for name, weight in zip(env.terms, chosen[step, replica], strict=True) if weight}
                assert on == set(stages[at])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"terms": "soft_label"}, "terms='soft_label' must be a list"),
        ({"terms": [[], "soft_label"]}, "must be a list with the terms of each stage"),
        ({"terms": []}, "at least 1 stage"),
        ({"terms": ["soft_lable"]}, "Did you mean 'soft_label'"),
        ({"terms": ["soft_label"], "shares": [1, 2]}, "must be 1 finite numbers above 0"),
        ({"terms": ["soft_label", "hard_label"], "shares": [1, 0]}, "above 0"),
        ({"terms": ["soft_label", "hard_label"], "shares": ["a", "b"]}, "above 0"),
    ],
)
def test_bad_stages_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_rule("stages", TermsVectorEnv(), **options)
    with pytest.raises(ValueError, match="cannot express"):
        make_rule("stages", TermsVectorEnv(view="discrete"), terms=[["soft_label", "relation"]])


def test_a_stage_without_a_step_is_refused(tiny_problem: Any) -> None:
    """Two updates a step: of ten stages in a budget of eight updates only four could be."""
    from kd_env import DistillVectorEnv

    env = DistillVectorEnv(1, problem=with_options(tiny_problem, budget=8, updates_per_step=2))
    make_rule("stages", env, terms=["soft_label"] * 4)
    with pytest.raises(ValueError, match=r"5 stages, but an episode of 4 steps has none in stage \d"):
        make_rule("stages", env, terms=["soft_label"] * 5)


def test_annealing_moves_from_the_teacher_to_the_labels() -> None:
    env = TermsVectorEnv((4, 8), view="box")
    chosen, _ = play(make_rule("annealing", env, other_weight=0.5), env, 4)
    progress = np.arange(4)[:, None] / np.array([4, 8])
    assert np.allclose(chosen[..., 0], progress, atol=1e-6)
    assert np.allclose(chosen[..., 1], 1 - progress, atol=1e-6)
    assert np.allclose(chosen[..., 2], 0.5)


def test_early_stopping_waits_stops_and_starts_again() -> None:
    env = TermsVectorEnv((9, 9, 9))
    rule = make_rule("early_stopping", env, patience=2)
    gaps = np.array(
        [[5, 5, 5], [4, 5, 4], [4, 5, 5], [3, 4, 4], [3, 3, 3], [3, 2, 2], [9, 1, 1], [8, 0, 0]], dtype=np.float32
    )
    begins = np.zeros((8, 3), dtype=bool)
    begins[0] = True
    begins[6, 0] = True  # replica 0 begins a new episode with a larger gap
    state, trained = None, []
    for gap, starts in zip(gaps, begins, strict=True):
        actions, state = rule.predict(np.column_stack([np.zeros(3), gap]), state, starts)
        trained.append(actions.all(axis=1).tolist())
        assert (actions.all(axis=1) | ~actions.any(axis=1)).all()
    expected = [
        [True, True, True],
        [True, True, True],
        [True, False, True],  # replica 1: two steps at 5
        [True, False, False],  # replica 2: 5 and 4 are no better than 4
        [True, False, False],  # a later improvement does not undo a stop
        [False, False, False],
        [True, False, False],
        [True, False, False],
    ]
    assert trained == expected
    # The memory is in the state: another run with the same object begins afresh.
    assert rule.predict(np.zeros((3, 2)), None, np.ones(3))[0].all()


@pytest.mark.parametrize("view", VIEWS)
def test_greedy_takes_the_best_of_its_candidates_and_restores_the_env(view: str) -> None:
    env, plain = (TermsVectorEnv((4, 6, 3), view=view) for _ in range(2))
    rule = make_rule("greedy", env)
    observations, _ = env.reset(seed=2)
    plain.reset(seed=2)
    for _ in range(12):
        worth = env.worth.copy()
        actions, _ = rule.predict(observations)
        assert np.array_equal(env.worth, worth)
        chosen = np.array([env.decode(action)[0] for action in actions])
        best = np.maximum(np.maximum(worth.max(axis=1), worth.sum(axis=1)), 0.0)
        observations, rewards, *_ = env.step(actions)
        assert np.allclose((chosen * worth).sum(axis=1), best)
        assert np.allclose(rewards, best)
        same = plain.step(actions)  # an env that was never forked
        assert np.array_equal(same[0], observations)
        assert np.array_equal(same[1], rewards)
    assert env.taken == 12 * (1 + 5)


def test_greedy_prefers_all_among_equals() -> None:
    env = TermsVectorEnv()
    env.worth[:] = 0.0
    assert make_rule("greedy", env).predict(np.zeros((2, 2)))[0].all()


def test_greedy_restores_after_an_error() -> None:
    env = TermsVectorEnv()
    rule = make_rule("greedy", env)
    before, step = env.worth.copy(), env.step

    def broken(actions: Any) -> Any:
        step(actions)
        raise RuntimeError("no more memory")

    env.step = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="no more memory"):
        rule.predict(np.zeros((2, 2)))
    assert np.array_equal(env.worth, before)
    assert (env.steps == 0).all()


def test_greedy_looks_past_wrappers_and_into_single_envs() -> None:
    env = gym.wrappers.RecordEpisodeStatistics(gym.wrappers.TimeLimit(TermsEnv(length=9), 3))
    observation, _ = env.reset(seed=0)
    rule = make_rule("greedy", env)
    for step in range(3):
        action, _ = rule.predict(observation)
        worth = env.unwrapped.many.worth[0].copy()
        observation, reward, _, truncated, info = env.step(action)
        assert reward == pytest.approx(max(worth.max(), worth.sum(), 0.0))
        assert truncated is (step == 2)
    assert info["episode"]["l"] == 3
    with pytest.raises(ValueError, match="1 replicas, but got 2 rows"):
        rule.predict(np.zeros((2, 2)))


@pytest.mark.parametrize(("name", "rule"), CHOOSING.items())
def test_other_views_are_refused_with_the_one_that_works(name: str, rule: Any) -> None:
    for view in set(VIEWS) - set(rule.views):
        with pytest.raises(ValueError, match=f"{view!r}.*action_view='{rule.views[0]}'"):
            make_rule(name, TermsVectorEnv(view=view), **OPTIONS.get(name, {}))


def test_what_the_env_lacks_is_named() -> None:
    with pytest.raises(ValueError, match=r"needs the term 'hard_label'.*soft_label, relation"):
        make_rule("hard_label_only", TermsVectorEnv(terms=("soft_label", "relation")))
    with pytest.raises(ValueError, match="gate=True"):
        make_rule("random_gate", TermsVectorEnv(view="box", gate=False))
    with pytest.raises(ValueError, match=r"names what its actions weigh \(decision\)"):
        make_rule("all", identity_vector_env("box", 2))

    class NoGap(TermsVectorEnv):
        observation_layout = {}  # noqa: RUF012

        get_state = property()  # type: ignore[assignment]

    with pytest.raises(ValueError, match="reads the feature 'gap'"):
        make_rule("early_stopping", NoGap())
    with pytest.raises(ValueError, match="get_state and set_state"):
        make_rule("greedy", NoGap())


def test_bad_names_and_options_are_refused(tmp_path: Path) -> None:
    env = TermsVectorEnv()
    with pytest.raises(ValueError, match="Did you mean 'random_hard'"):
        make_rule("random_hrd", env)
    with pytest.raises(ValueError, match="Did you mean 'patience'"):
        make_rule("early_stopping", env, patiense=3)
    with pytest.raises(ValueError, match="patience=0"):
        make_rule("early_stopping", env, patience=0)
    with pytest.raises(ValueError, match="needs the option weights"):
        make_rule("fixed", env)
    make_rule("all", env).save(tmp_path / "a")
    with pytest.raises(ValueError, match="give env to load"):
        load_agent(tmp_path / "a")
    with pytest.raises(ValueError, match="episode_start has shape"):
        make_rule("all", env).predict(np.zeros((2, 2)), None, np.zeros(3))
