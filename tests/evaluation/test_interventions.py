"""Interventions on a learned policy: what they do to its actions, where they stand in reports, and who has none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.jobs import contenders
from cli.main import main, run
from cli.settings import probe
from cli.settings.compose import compose
from cli.settings.controls import INTERVENTIONS as NAMES
from cli.settings.kinds.catalog import reader_of
from cli.settings.read import read_settings
from kd_env import DistillVectorEnv, build_problem
from kd_env.decisions.options import env_config
from kd_env.envs.process import with_options
from kd_env.evaluation.comparing import report as compare_report
from kd_env.evaluation.comparing.compare import compare
from kd_env.evaluation.comparing.runs import Run
from kd_env.evaluation.comparing.words import plain_words as compare_words
from kd_env.evaluation.judging.contenders import Contender
from kd_env.evaluation.judging.interventions import (
    INTERVENTIONS,
    Forced,
    Replay,
    intervened,
    interventions_of,
    recorded_schedule,
)
from kd_env.evaluation.judging.protocol import evaluate_policies
from kd_env.evaluation.reports import report_files, words
from kd_env.evaluation.reports.report import summarize
from kd_env.evaluation.statistics.crossed import policy_difference

pytestmark = pytest.mark.usefixtures("undrawn")


class Drawn:
    """Random actions of a space, which are kept; the same for everybody and in every step if ``still``."""

    def __init__(self, env: DistillVectorEnv, seed: int = 0, still: bool = False) -> None:
        self.space, self.rng, self.still = env.single_action_space, np.random.default_rng(seed), still
        self.played: list[np.ndarray] = []

    def predict(self, observation: Any, state: Any = None, **_: Any) -> tuple[Any, Any]:
        if not (self.still and self.played):
            self.space.seed(int(self.rng.integers(1000)))
            actions = np.stack([np.asarray(self.space.sample()) for _ in observation])
            self.played.append(np.stack([actions[0]] * len(actions)) if self.still else actions)
        return self.played[-1][: len(observation)], None


@pytest.fixture(scope="module")
def rows_problem(tiny: dict[str, Any]) -> Any:
    options = {key: value for key, value in tiny.items() if key != "features"}
    sizes = {"batch_size": 5, "budget": 3, "updates_per_step": 1, "features": ("progress", "row_student")}
    return build_problem(env_config(**{**options, **sizes}, decision="sample_weighting"))


def test_names_stand_for_single_interventions(tiny_problem: Any, tiny_set_problem: Any, rows_problem: Any) -> None:
    assert tuple(INTERVENTIONS) == NAMES

    def forced(problem: Any, **options: Any) -> tuple[str, ...]:
        changed = with_options(problem, **options)
        return interventions_of(["forced"], changed.decision, changed.config)

    terms = tiny_problem.term_names
    each = tuple(f"{term} {state}" for term in terms for state in ("on", "off"))
    assert forced(tiny_problem) == forced(tiny_problem, action_view="discrete") == each
    assert forced(tiny_problem, action_view="box", gate=True) == (*each, "gate on")
    teachers = tuple(f"{name} {state}" for name in tiny_set_problem.teacher_names for state in ("on", "off"))
    assert forced(tiny_set_problem) == forced(tiny_set_problem, action_view="discrete") == teachers
    assert forced(tiny_set_problem, weighting="sample") == forced(rows_problem, action_view="box") == ("constant",)
    both = interventions_of(["forced", "open_loop"], rows_problem.decision, rows_problem.config)
    assert both == ("open_loop", "constant")


@pytest.mark.parametrize("view", ["native", "discrete", "box"])
def test_a_term_is_forced_and_everything_else_as_the_policy_has_it(view: str, tiny_problem: Any) -> None:
    problem = with_options(tiny_problem, action_view=view)
    plain, _ = _weights(problem, lambda env: Drawn(env, 3))
    for place, term in enumerate(problem.term_names):
        for state, value in (("on", 1.0), ("off", 0.0)):
            found, _ = _weights(problem, lambda env, what=f"{term} {state}": Forced(env, Drawn(env, 3), what))
            expected = plain.copy()
            expected[..., place] = value
            np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(np.unique(plain)) > 1


def _weights(problem: Any, make: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the entries, ``[steps, N, K]``, and those of rows where there are any, as the actions say them."""
    env = DistillVectorEnv(3, problem=problem, autoreset_mode="disabled")
    policy, (observations, _) = make(env), env.reset(seed=0)
    entries, rows = [], []
    for _ in range(2):
        actions, _ = policy.predict(observations)
        effect = actions if hasattr(actions, "weights") else env.decision.apply(problem, env.run.started(), actions)
        entries.append(effect.weights.mean(-1)[:, 0])
        rows.append(effect.weights[:, 0, 0])
        observations, *_ = env.step(actions)
    return np.array(entries), np.array(rows)


@pytest.mark.parametrize("view", ["native", "subset", "box", "discrete"])
def test_rows_get_the_mean_weight_of_their_batch(view: str, rows_problem: Any) -> None:
    problem = with_options(rows_problem, action_view=view, score="student_loss")
    _, plain = _weights(problem, lambda env: Drawn(env, 1))
    _, found = _weights(problem, lambda env: Forced(env, Drawn(env, 1), "constant"))
    np.testing.assert_allclose(found[0], np.broadcast_to(plain[0].mean(-1, keepdims=True), plain[0].shape), atol=1e-6)
    assert (np.ptp(found, axis=-1) < 1e-6).all() and np.ptp(plain, axis=-1).max() > 0.1


def test_a_schedule_is_the_mean_of_what_was_played(tiny_problem: Any, rows_problem: Any) -> None:
    for problem, rows in ((with_options(tiny_problem, action_view="box"), 1), (rows_problem, 5)):
        policy = Drawn(DistillVectorEnv(1, problem=problem))
        schedule = recorded_schedule(policy, problem, [5, 6, 7, 8], deterministic=True)
        played = np.array(policy.played)  # [steps, students, components]
        means = played.reshape(len(played), 4, rows, -1).mean(axis=(1, 2), dtype=np.float64)
        np.testing.assert_allclose(schedule, np.tile(means, rows), atol=1e-6)
    for problem in (tiny_problem, with_options(tiny_problem, action_view="discrete")):
        policy = Drawn(DistillVectorEnv(1, problem=problem))
        schedule = recorded_schedule(policy, problem, list(range(9)), deterministic=True)
        for chosen, actions in zip(schedule, policy.played, strict=True):
            listed = [tuple(np.atleast_1d(action).tolist()) for action in actions]
            most = max(listed.count(one) for one in listed)
            assert tuple(np.atleast_1d(chosen).tolist()) == max(one for one in listed if listed.count(one) == most)
    bits = with_options(rows_problem, action_view="subset")
    policy = Drawn(DistillVectorEnv(1, problem=bits))
    schedule = recorded_schedule(policy, bits, [1, 2, 3], deterministic=True)
    assert schedule.tolist() == [[int(2 * actions.sum() >= actions.size)] * 5 for actions in policy.played]


def test_a_replay_knows_the_step_of_every_student() -> None:
    policy, seen = Replay(np.array([[0.0], [1.0], [2.0]])), np.zeros((2, 4))
    first, memory = policy.predict(seen, None, np.array([True, True]))
    second, memory = policy.predict(seen, memory, np.array([False, True]))  # the second student begins anew
    third, memory = policy.predict(seen, memory, np.array([False, False]))
    assert [each[:, 0].tolist() for each in (first, second, third)] == [[0, 0], [1, 0], [2, 1]]
    assert policy.predict(seen, memory, np.array([False, False]))[0][:, 0].tolist() == [2, 2]  # past its end


@pytest.fixture(scope="module")
def evaluation(rows_problem: Any) -> Any:
    """A policy that always does the same to rows that it prefers, two interventions, and a rule."""
    still = Contender(lambda env: Drawn(env, 4, still=True), learned=True)
    acted = {
        f"agent [{what}]": intervened(still, "agent", what, rows_problem, [50, 51], True)
        for what in ("open_loop", "constant")
    }
    rule = Contender(lambda env: Drawn(env, 9), chooses=False)
    return evaluate_policies(rows_problem, {"agent": still, **acted, "rule": rule}, [1, 2, 3])


def test_interventions_are_shown_and_are_no_rivals(evaluation: Any) -> None:
    """Here the open loop has the mean weight for every row at every step, as the constant has."""
    loop, constant = (evaluation.policies[f"agent [{what}]"].splits["validation"] for what in ("open_loop", "constant"))
    np.testing.assert_allclose(loop.loss, constant.loss, rtol=1e-5)
    assert (evaluation.policies["agent"].splits["validation"].loss != loop.loss).all()
    assert evaluation.comparator == "rule"
    shown = summarize(evaluation, replicates=10)
    assert shown.best_rule == "rule" and set(shown.to_rules) == {"agent"} and set(shown.to_rules["agent"]) == {"rule"}
    acted = [row for row in shown.rows if row.intervention]
    assert [shown.cells(row)[0] for row in acted] == ["agent [open_loop] ~", "agent [constant] ~"]
    assert all(set(row.holm_p.values()) == {None} and row.of == "agent" for row in acted)
    told = words.plain_words(shown)
    assert "agent minus agent [open_loop]: " in told and told.count("~ marks interventions") == 1
    plain = report_files.to_json(shown)["policies"]
    assert [(row["intervention"], row["of"], row["learned"]) for row in plain[1:3]] == [
        *(("open_loop", "agent", False), ("constant", "agent", False))
    ]
    assert "intervention" not in plain[0] and "of" not in plain[3]


def test_a_comparison_says_whether_the_policy_reacts(evaluation: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    saved = json.loads(json.dumps(report_files.to_json(summarize(evaluation, replicates=10))))
    saved["measure"], values = "gap_closed", rng.normal(0.5, 0.02, (5, 3))
    offsets = {"agent": 0.0, "agent [open_loop]": 0.0, "agent [constant]": -0.3, "rule": -0.5}
    runs = []
    for seed, base in enumerate(values):
        results = json.loads(json.dumps(saved))
        for row in results["policies"]:
            noise = 0.0 if row["policy"] == "rule" else rng.normal(0, 0.01, 3)
            base_of = values[0] if row["policy"] == "rule" else base
            for split in ("selection", "validation"):
                row["seeds"]["splits"][split]["gap_closed"] = (base_of + offsets[row["policy"]] + noise).tolist()
        runs.append(Run(f"run{seed}", "agent", "none", range(100 * seed, 100 * seed + 4), results))
    found = compare(runs)
    assert [entry.policy for entry in found.entries] == ["agent", "rule"]
    assert {one.second for one in found.to_rules} == {"rule"} and found.best_rule == "rule"

    def of(name: str) -> np.ndarray:
        rows = [next(row for row in one.results["policies"] if row["policy"] == name) for one in runs]
        return np.array([row["seeds"]["splits"]["validation"]["gap_closed"] for row in rows])

    for contrast in found.reactions:
        assert contrast.difference == policy_difference(of("agent"), of(contrast.second), paired=True)
    assert [one.second for one in found.reactions] == ["agent [open_loop]", "agent [constant]"]
    told = compare_words(found)
    assert "it is a schedule (detectable" in told and "which rows it prefers is a part of what it gains" in told
    compare_report.print_comparison(found)
    out = capsys.readouterr().out
    assert "Does the policy react?" in out and "agent - agent [open_loop]" in out
    fewer = compare(
        [runs[0], replace(runs[1], results={**runs[1].results, "policies": runs[1].results["policies"][:1]})]
    )
    assert {one.difference.design for one in fewer.reactions} == {"3 seeds"}  # of the training that has them


@pytest.fixture(scope="module")
def settings() -> Any:
    return read_settings(compose("config", ["experiment=noisy_samples", "evaluation.rules=[uniform]"]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[open_lop]", "Unknown intervention in evaluation.interventions: 'open_lop'. Did you mean 'open_loop'"),
        ("open_loop", "must be auto or a list of open_loop, forced"),
        ("[1]", "Unknown intervention"),
    ],
)
def test_unknown_names_are_refused(given: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "experiment=noisy_samples", f"evaluation.interventions={given}"]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_who_learns_no_policy_of_weights_has_none(settings: Any) -> None:
    given, auto = replace(settings, interventions=("open_loop",)), replace(settings, interventions=None)
    assert probe.check(auto).interventions == ("open_loop", "constant")
    assert contenders.names(probe.check(given)) == ["row_reinforce", "row_reinforce [open_loop]", "uniform", *WIDER]
    for name in ("uniform", "searched"):
        agent = replace(settings.agent, name=name, label=name, options={})
        env = replace(settings.env, action_view="box")
        with pytest.raises(ValueError, match=rf"interventions=\['open_loop'\] are about .* '{name}' always does"):
            probe.check(replace(given, agent=agent, env=env))
        assert probe.check(replace(auto, agent=agent, env=env)).interventions == ()
    tutor = read_settings(compose("config", ["env=tutor_token", "agent=tutor"]))
    with pytest.raises(ValueError, match="a tutor writes tokens into texts"):
        reader_of(tutor.resolved["env"]["id"]).check(replace(tutor, interventions=("forced",)))


WIDER = ["uniform (train+feedback)"]


def test_the_main_job_judges_them_beside_the_agent(tiny: dict[str, Any], tmp_path: Path) -> None:
    overrides = [
        *("task=custom", f"task.data_dir={tiny['data_dir']}", f"teacher.path={tiny['teacher']}"),
        *("student=toy_small", "student.hidden_size=8", "task.feedback_rows=32", "task.selection_rows=32"),
        *("env.evaluation_rows=32", "env.batch_size=4", "env.budget=4", "num_envs=2", "total_timesteps=16"),
        *("agent.options.n_steps=4", "evaluation.seeds=2", "evaluation.rules=[all]", "progress=false"),
        *("env.terms=[hard_label,soft_label]", f"cache_dir={tmp_path / 'cache'}"),
        *("evaluation.interventions=auto", f"runs_dir={tmp_path}", "name=acted", "checkpoint_every=0"),
    ]
    assert run("train", overrides, "kd-env train") == 0
    rows = json.loads((tmp_path / "acted" / "results.json").read_text())["policies"]
    expected = ["open_loop", *(f"{term}_label {state}" for term in ("hard", "soft") for state in ("on", "off"))]
    assert [row.get("intervention") for row in rows] == [None, *expected, None]
    off = next(row for row in rows if row.get("intervention") == "hard_label off")
    assert off["mean_weights"]["hard_label"] == 0.0 and off["of"] == "actor_critic"
    # As one of several processes that share the work does it, without the agent itself.
    made = probe.check(read_settings(compose("config", overrides)))
    part = contenders._part(made, tmp_path / "acted" / "policy", [off["policy"]], lambda event: None)
    again = part.policies[off["policy"]].splits["validation"].loss
    assert again.tolist() == off["seeds"]["splits"]["validation"]["loss"]
