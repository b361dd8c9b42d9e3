"""Played by ``tests/command_line/test_plugins.py``, where ``examples/plugin`` and a broken one are installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import kd_env
from agents import agent_names, make_rule
from cli.main import main
from cli.settings.compose import compose
from cli.settings.read import read_settings
from kd_env.core.metrics import METRICS, compute
from kd_env.data.loading import get_task, load_dev, load_train
from kd_env.data.tasks import TASKS
from kd_env.decisions.catalog import DECISIONS
from kd_env.decisions.sample_weighting.scores import SCORES
from kd_env.envs import DistillEnv
from kd_env.envs.build import build_problem
from kd_env.finetuning.contents import task_contents
from kd_env.knowledge import TERMS
from kd_env.mdp.objectives.catalog import OBJECTIVES
from kd_env.mdp.observations.base import FEATURES
from kd_env.mdp.rewards import REWARDS
from kd_env.teachers.catalog import TEACHER_SOURCES

TEACHER = str(Path(kd_env.__file__).parent / "assets" / "toy")
SMALL: dict[str, Any] = {"task": "opinions", "teacher": TEACHER, "budget": 4, "student": {"num_hidden_layers": 1}}


def test_one_that_does_not_load_is_told_of_once_and_named_with_its_cause() -> None:
    with pytest.warns(UserWarning) as told:
        assert "margin" in TERMS and "hard_label" in TERMS and "broken" not in TERMS
        assert "broken" not in list(TERMS)
    (words,) = (str(one.message) for one in told)
    for part in ("'broken'", "broken_plugin:term", "kd_env.terms", "kd-env-broken 2.0", "ZeroDivisionError: no luck"):
        assert part in words
    with pytest.raises(ValueError, match=r"knowledge term 'broken' is a plug-in that does not load.*no luck") as caught:
        TERMS["broken"]
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_what_is_no_metric_and_what_has_a_name_of_ours_are_left_out() -> None:
    with pytest.warns(UserWarning, match="'number'.*must be an object of the class Metric"):
        assert METRICS["worst_class"].bounds == (0.0, 1.0)
    with pytest.raises(ValueError, match="'number' is a plug-in that does not load"):
        METRICS["number"]
    ours = REWARDS._items["gap_closed"]
    with pytest.warns(UserWarning, match="'gap_closed'.*is taken in kd_env.rewards"):
        assert REWARDS["gap_closed"] is ours


@pytest.mark.filterwarnings("ignore:The plug-in")
def test_every_registry_has_its_plugin_and_names_it_in_errors() -> None:
    names = {
        **{TASKS: "opinions", METRICS: "worst_class", TEACHER_SOURCES: "corrected", OBJECTIVES: "brier"},
        **{TERMS: "margin", REWARDS: "steady", FEATURES: "batch_purity", SCORES: "length", DECISIONS: "pace"},
    }
    for registry, name in names.items():
        assert name in registry and name in list(registry)
        with pytest.raises(ValueError, match=rf"Unknown {registry.kind} .*Valid: .*\b{name}\b"):
            registry["nothing"]
    assert {"climber", "short_first"} <= set(agent_names()) and "kd_env/Pace-v0" in gym.registry


def test_a_task_brings_its_rows() -> None:
    task = get_task("opinions")
    train, dev = load_train(task, None), load_dev(task, None)["validation"]
    assert (len(train.first), len(dev.first)) == (400, 100) and set(train.labels) == {0, 1}
    with pytest.raises(ValueError, match="'opinions' brings its rows"):
        get_task("opinions", data_dir="somewhere")
    assert task_contents("opinions", None, []).keys() == {"rows"}  # a kept teacher goes with its rows
    found = compute(task.metrics, np.array([1, 1, 1, 0]), np.array([1, 1, 0, 0]))
    assert found == {"worst_class": 0.5, "accuracy": 0.75}


def test_objective_and_source_reach_rewards_and_students() -> None:
    options = {**SMALL, "terms": ["hard_label", "soft_label"], "label_noise": 0.4, "features": ["progress"]}
    corrected = DistillEnv(**options, teacher_source="corrected", objective="brier", reward="steady")
    problem = corrected.problem
    logits, labels = problem.teachers[0].train_logits, problem.train.labels
    assert (logits.argmax(-1) == labels).all()
    plain = build_problem(kd_env.env_config(**options)).teachers[0].train_logits
    assert 0.2 < (plain.argmax(-1) != labels).mean() < 0.6 and np.array_equal(np.sort(plain), np.sort(logits))
    powers = np.exp(problem.reference.feedback_logits.astype(np.float64))
    shares, truth = powers / powers.sum(-1, keepdims=True), np.eye(2)[problem.feedback.labels]
    uncalibrated = ((shares - truth) ** 2).sum(-1).mean()
    assert problem.objective.raw_loss(problem, problem.reference.feedback_logits, problem.feedback) == pytest.approx(
        uncalibrated
    )
    assert 0.0 <= problem.teacher_loss <= uncalibrated + 1e-3
    corrected.reset(seed=0)
    _, reward, _, _, info = corrected.step(corrected.action_space.sample())
    assert 0.0 < info["loss"] < 1.0 and np.isfinite(reward)


def test_score_and_rule_go_by_length() -> None:
    options = {**SMALL, "decision": "sample_weighting", "features": ["progress", "row_length"], "updates_per_step": 1}
    env = DistillEnv(**options, action_view="discrete", score="length")
    env.reset(seed=0)
    choice = env.action_names.index("lowest half of length")
    _, _, _, _, info = env.step(choice)
    lengths = env.problem.train.lengths[info["rows"]]
    kept = info["row_weights"].reshape(lengths.shape) > 0
    assert lengths[kept].max() <= lengths[~kept].min() and kept.sum() == kept.size // 2
    rule = make_rule("short_first", env, start=0.25)
    observation, _ = env.reset(seed=0)
    assert (rule.predict(observation)[0].weights[0, 0, 0] > 0).sum() == 4
    with pytest.raises(ValueError, match="start"):
        make_rule("short_first", env, start=2.0)


def test_names_are_enough_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = (
        f"task=opinions teacher.path={TEACHER} teacher.source=corrected student=toy_small env=pace objective=brier "
        "env.terms=[hard_label,margin] env.reward=steady env.features=[progress,batch_purity] agent=climber "
        "env.budget=4 num_envs=2 total_timesteps=12 evaluation.seeds=2 evaluation.jobs=1 evaluation.rules=[] threads=1 "
        f"progress=false name=plugged runs_dir={tmp_path}"
    )
    assert main(["train", *words.split()]) == 0, capfd.readouterr().err
    results = json.loads((tmp_path / "plugged/results.json").read_text())
    (policy,) = results["policies"]
    assert policy["policy"] == "climber" and "worst_class" in policy["metrics"]["validation"]
    composed = compose("config", ["task=opinions", "env=pace", "agent=climber"])
    assert composed["presets"] == {
        **composed["presets"],
        **{"task": "opinions", "env": "pace", "agent": "climber", "student": "first2"},
    }
    # Terms of env=<plug-in> are those of the decision; the view of agent=rule/<plug-in> the first that it can act in.
    settings = read_settings({**composed, "teacher": {**composed["teacher"], "path": TEACHER}})
    assert settings.env.decision == "pace" and settings.env.terms == kd_env.EnvConfig.terms
    rule = compose("config", ["env=sample_weighting", "agent=rule/short_first", "agent.options.start=0.3"])
    assert rule["agent"]["action_view"] == "native" and rule["agent"]["name"] == "short_first"


def test_help_and_errors_of_the_command_line_list_them(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    presets = capfd.readouterr().out.split("Options (key=value)")[0]
    for name in ("opinions", "pace", "brier", "climber", "rule/short_first"):
        assert name in presets
    for word in ("agent=climbr", "agent=rule/shortfirst", "env=pacer", "task=opinion", "objective=brie"):
        assert main(["train", word]) == 2
        assert "Did you mean" in (said := capfd.readouterr().err) and word.split("=")[1][:4] in said.split("Valid")[1]
    assert main(["train", "agent=rule/sunk"]) == 2
    assert "The rule 'sunk' is a plug-in that does not load" in capfd.readouterr().err
