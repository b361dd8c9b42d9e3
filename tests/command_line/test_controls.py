"""Negative controls of the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents import load_agent
from cli.jobs.train import train
from cli.settings import probe
from cli.settings.compose import compose
from cli.settings.controls import CONTROLS, RewardShuffle, agent_options
from cli.settings.read import read_settings
from kd_env import DistillVectorEnv

pytestmark = pytest.mark.usefixtures("undrawn")
FEW = ("task.max_train_rows=64", "task.selection_rows=32")
"""Rows of the embedded task that are sooner read than all."""


def settings_of(*overrides: str) -> Any:
    return probe.check(read_settings(compose("config", overrides)))


def test_rewards_are_permuted_over_replicas_and_steps() -> None:
    rewards = np.arange(12.0).reshape(4, 3)
    shuffle = RewardShuffle(0)
    found = [shuffle(rewards) for _ in range(3)]
    for part in found:
        assert part.shape == (4, 3) and np.array_equal(np.sort(part.ravel()), rewards.ravel())
    assert not np.array_equal(found[0], rewards) and not np.array_equal(found[0], found[1])
    assert np.array_equal(RewardShuffle(0)(rewards), found[0])
    assert agent_options("none", 0) == {} and set(agent_options("shuffled_reward", 0)) == {"reward_transform"}


@pytest.mark.parametrize("agent", ["actor_critic", "reinforce", "knowledge_selector", "sb3/ppo"])
@pytest.mark.parametrize("control", CONTROLS)
def test_every_control_is_accepted_and_named(control: str, agent: str) -> None:
    found = settings_of(f"agent={agent}", f"control={control}")
    assert (control in found.run_folder.name) == (control != "none")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["control=shuffled"], "Did you mean 'shuffled_reward'"),
        (["control=shuffled_reward", "agent=sb3/sac"], "keeps no rollout"),
        (["control=untrained", "agent=rule/all"], "a rule has none"),
        (["control=teacher_is_student", "env.terms=[hard_label]"], "no other term"),
    ],
)
def test_controls_that_cannot_be_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings_of(*overrides)


@pytest.mark.parametrize("agent", ["row_actor_critic", "rule/lgtm"])
def test_feedback_is_shuffled_for_agents_and_rules(agent: str) -> None:
    found = settings_of("experiment=noisy_samples", f"agent={agent}", "control=shuffled_feedback")
    assert found.env.feedback_labels == "shuffled" and "shuffled_feedback" in found.run_folder.name
    assert settings_of("experiment=noisy_samples", f"agent={agent}").env.feedback_labels == "gold"
    again = read_settings(found.resolved)  # as a run folder's configuration is read again
    assert again.env == found.env


def test_a_student_that_teaches_itself_learns_nothing() -> None:
    found = settings_of("task=toy", "control=teacher_is_student", "env.budget=12", *FEW)
    assert found.env.reward == "loss_drop" and "hard_label" not in found.env.terms
    # In float64 and without running scales rounding errors lie below AdamW's eps; else it makes ordinary steps of them.
    env = DistillVectorEnv(2, **{**found.env.to_dict(), "cache_dir": None, "precision": "fp64", "term_scale": "none"})
    env.reset(seed=0)
    before = [p.clone() for p in env.get_state().run.params.values()]
    for _ in range(5):
        _, reward, _, _, info = env.step(np.ones((2, 3), np.int8))
        assert np.abs(info["raw_losses"]).max() < 1e-12 and np.abs(reward).max() < 1e-3  # weight decay alone
    after = env.get_state().run.params.values()
    for a, b in zip(after, before, strict=True):  # weight decay alone
        assert float(((a - b).abs() - 7e-3 * 0.01 * 10 * b.abs()).max()) < 1e-6
    few = {"max_train_rows": found.env.max_train_rows, "selection_rows": found.env.selection_rows}
    taught = DistillVectorEnv(2, budget=12, terms=found.env.terms, reward="loss_drop", **few)
    taught.reset(seed=0)
    taught.step(np.ones((2, 3), np.int8))
    assert (taught.step(np.ones((2, 3), np.int8))[4]["raw_losses"] > 1e-4).all()


def test_untrained_networks_are_saved_as_they_were_drawn(tmp_path: Path) -> None:
    overrides = [
        "experiment=quick",
        *FEW,
        "control=untrained",
        f"runs_dir={tmp_path}",
        f"cache_dir={tmp_path / 'cache'}",
        "progress=false",
        "evaluation.seeds=2",
        "evaluation.rules=[all]",
    ]
    folder = train(overrides, "command")
    agent: Any = load_agent(folder / "policy")
    assert agent.num_timesteps == 0 and (folder / "results.json").is_file()
