"""Agents that begin with another run's policy: what they take over, what they do not, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from identity import identity_vector_env

from agents import load_agent, make_agent
from cli.jobs import study
from cli.jobs.train import train
from cli.runs import folder as runs
from cli.runs.watch import read_history
from cli.settings.options import split_options

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def words(tiny: dict[str, Any], tmp_path: Path) -> list[str]:
    return [
        "task=custom",
        f"task.data_dir={tiny['data_dir']}",
        f"teacher.path={tiny['teacher']}",
        *("student=toy_small", "student.hidden_size=8", "task.feedback_rows=32", "task.selection_rows=32"),
        *("env.evaluation_rows=32", "env.batch_size=4", "env.budget=4", "evaluation.seeds=2", "num_envs=2"),
        *("evaluation.rules=[]", "progress=false", "total_timesteps=8", f"runs_dir={tmp_path}"),
        "agent=reinforce",
    ]


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("actor_critic", "box", {"n_steps": 4}),
        ("reinforce", "multi_binary", {}),
        ("sb3/ppo", "discrete", {"n_steps": 4}),
        ("sb3/sac", "box", {"learning_starts": 8, "batch_size": 8}),
    ],
)
def test_it_acts_as_its_source_and_is_fresh_otherwise(
    name: str, kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    env = identity_vector_env(kind, 2)
    source: Any = make_agent(name, env, seed=0, **options).learn(32)
    source.save(tmp_path / "source")
    fresh: Any = make_agent(name, env, seed=1, **options)
    observations = np.stack([env.single_observation_space.sample() for _ in range(8)])
    wanted = source.predict(observations, deterministic=True)[0]
    fresh.start_from(tmp_path / "source", env)
    assert np.array_equal(fresh.predict(observations, deterministic=True)[0], wanted)
    assert fresh.num_timesteps == 0 and fresh.seed == 1
    fresh_optimizers = (
        [fresh.model.policy.optimizer] if name == "sb3/ppo" else getattr(fresh, "optimizers", {}).values()
    )
    assert not any(optimizer.state for optimizer in fresh_optimizers)
    fresh.learn(16)
    assert fresh.num_timesteps >= 16


def test_other_agents_spaces_and_sizes_are_named(tmp_path: Path) -> None:
    env = identity_vector_env("discrete", 2)
    make_agent("actor_critic", env, seed=0, hidden_sizes=[8]).save(tmp_path / "source")
    with pytest.raises(ValueError, match=r"hidden_sizes \[8\] there, \(64, 64\) here\. Give the same"):
        make_agent("actor_critic", env, seed=0).start_from(tmp_path / "source", env)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="holds the agent 'actor_critic', not 'reinforce'"):
        make_agent("reinforce", env, seed=0).start_from(tmp_path / "source", env)  # type: ignore[attr-defined]
    other = identity_vector_env("box", 2)
    with pytest.raises(ValueError, match=r"trained on the observation space Box.*the env has Box"):
        make_agent("actor_critic", other, seed=0).start_from(tmp_path / "source", other)  # type: ignore[attr-defined]


def test_a_run_begins_with_the_policy_of_another(words: list[str], tmp_path: Path) -> None:
    train([*words, "name=first"], "")
    begins = [*words, f"agent.from={tmp_path}/first", "name=second", "seed=5"]
    terms = r"other knowledge terms: \[.*hidden_states.*\]; here they are \[hard_label"
    for more, message in (
        (["agent=actor_critic"], "its policy is one of 'reinforce'.*this agent is 'actor_critic'; choose agent=reinf"),
        (["control=shuffled_reward"], "a control is to have learned nothing"),
        (["env.terms=[hard_label,soft_label]"], terms),
        (["env.features=[progress,gap]"], "other observation features"),
        (["agent.options.hidden_sizes=[8]"], r"hidden_sizes \[64, 64\] there, \(8,\) here"),
        ([f"agent.from={tmp_path}/none"], "is no run folder"),
    ):
        with pytest.raises(ValueError, match=message):
            train([*begins, "name=other", *more], "")
        assert not (tmp_path / "other" / "policy").exists()

    train(begins, "")
    first, second = (read_history(tmp_path / name / runs.LOGS)[-1]["timesteps"] for name in ("first", "second"))
    assert first == second  # counted from 0
    began = json.loads((tmp_path / "second" / "results.json").read_text())["began_from"]
    assert (began["run"], began["steps"]) == (str(tmp_path / "first"), first)
    assert "networks.safetensors" in began["policy"]
    assert "began with the policy of the run" in (tmp_path / "second" / "results.md").read_text()
    assert "began_from" not in json.loads((tmp_path / "first" / "results.json").read_text())

    (tmp_path / "first").rename(tmp_path / "away")  # what goes on needs its source no more
    longer = [*(word for word in begins if "total" not in word), f"total_timesteps={int(first) + 1}", "resume=true"]
    assert load_agent(train(longer, "") / runs.POLICY).num_timesteps == 2 * first  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "second" / "results.json").read_text())["began_from"] == began


def test_every_training_of_a_study_can_begin_so(words: list[str], tmp_path: Path) -> None:
    agents = "agents=[{name: reinforce, from: runs/a}, {name: reinforce, label: drawn}]"
    given = [*(word for word in words if word.split("=")[0] not in ("progress", "agent")), agents, "trainings=2"]
    found = study.plan(*split_options("study", given))
    assert [training.settings.resolved["agent"].get("from") for training in found] == [
        *[str(Path("runs/a").absolute())] * 2,
        *[None] * 2,
    ]
    assert "agent.from=runs/a" in found[0].overrides
    with pytest.raises(ValueError, match=r"runs.a is no run folder"):
        study.study([*given, "name=several"], "")
