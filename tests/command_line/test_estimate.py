"""Estimates: the arithmetic by hand, what a probe leaves alone, and the words of runs and studies."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents import make_agent
from cli.jobs.estimates import measure, said
from cli.jobs.estimates.command import estimate_job
from cli.jobs.estimates.counts import Counts
from cli.jobs.estimates.estimate import IMPORTS, REPORT, estimate, together
from cli.jobs.estimates.measure import Costs
from cli.jobs.estimates.probed import ProbedEnv
from cli.jobs.estimates.untouched import untouched
from cli.jobs.estimates.words import duration
from cli.jobs.train import train
from kd_env.envs import DistillVectorEnv


@pytest.fixture
def words(tiny: dict[str, Any], tmp_path: Path) -> list[str]:
    return [
        "task=custom",
        f"task.data_dir={tiny['data_dir']}",
        f"teacher.path={tiny['teacher']}",
        *("student=toy_small", "student.hidden_size=8", "task.feedback_rows=32", "task.selection_rows=32"),
        *("env.evaluation_rows=32", "env.batch_size=4", "env.budget=4", "evaluation.seeds=2", "num_envs=2"),
        *("evaluation.rules=[all]", "progress=false", "total_timesteps=8", f"runs_dir={tmp_path}"),
    ]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_TRAINING", "_AGENT", "_JUDGED"):
        monkeypatch.setattr(measure, name, 0.02)


def test_seconds_by_hand() -> None:
    counts = Counts(
        steps=70, num_envs=8, episode_steps=5, episode_updates=10, evaluate_every=1, policies=("a", "b"), seeds=3
    )
    assert counts.rounds == 9 and counts.updates == (144, 60) and counts.evaluations == (72, 30)
    costs = Costs(
        step=1.0, reset=0.5, agent=0.25, judged_step=2.0, judged_reset=0.5, judging=0.1, choosing={"b": 3.0}, memory=7
    )
    one: dict[str, Any] = {"processes": 1, "workers": 0, "start_up": 4.0, "cores": 2}
    alone = estimate(counts, costs, **one)
    assert alone.training == pytest.approx(9 * 1.25 + 9 / 5 * 0.5) and alone.memory == 7
    # The agent acts at its own cost, the rule at that of its choice.
    first, second = 0.6 + 5 * 2.25, 0.6 + 5 * 5.0
    assert alone.evaluation == pytest.approx(0.6 + first + second + REPORT)
    # A rule that reads no evaluation goes without, also where it trains on feedback rows.
    counts_at_end = dataclasses.replace(counts, policies=("a", "b (train+feedback)"), at_end=frozenset({"b"}))
    unread = estimate(counts_at_end, dataclasses.replace(costs, unread_step=0.5), **one)
    assert counts_at_end.evaluations == (72, 15 + 3)
    assert unread.evaluation == pytest.approx(alone.evaluation - 5 * 1.5)
    shared = estimate(counts, costs, processes=2, workers=8, start_up=4.0, cores=2)
    assert shared.evaluation == pytest.approx(0.6 + second + REPORT + IMPORTS + 4.0) and shared.memory == 7 * 9
    assert shared.training == pytest.approx(alone.training + 4 * (IMPORTS + 4.0))  # eight that begin on two cores
    crowded = estimate(counts, costs, processes=2, workers=0, start_up=4.0, cores=1)
    assert crowded.evaluation - REPORT == pytest.approx(2 * (shared.evaluation - REPORT))


def test_works_one_after_another_and_side_by_side() -> None:
    assert together([3.0, 1.0, 1.0, 2.0], 1) == 7.0
    assert together([3.0, 1.0, 1.0, 2.0], 2) == 4.0
    assert together([3.0, 1.0], 8) == 3.0
    words = {
        0.2: "1 s",
        9.6: "10 s",
        42.0: "40 s",
        80.0: "1 min 20 s",
        119.0: "2 min",
        840.0: "14 min",
        7500.0: "2 h 5 min",
    }
    assert {seconds: duration(seconds) for seconds in words} == words


def test_the_random_state_stays() -> None:
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index]
    threads = torch.get_num_threads()
    with untouched(threads + 1):
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)
        assert torch.get_num_threads() == threads + 1
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[2])
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("name", ["actor_critic", "sb3/ppo"])
def test_an_agent_goes_on_learning_when_steps_cost_nothing(tiny_problem: Any, name: str) -> None:
    """After the real steps it has whole episodes of the right length, so that it is timed with its updates."""
    real = DistillVectorEnv(2, problem=tiny_problem)
    env = ProbedEnv(real, real.episode_steps, 1, 0.0, 5.0)
    ends: list[dict[str, float]] = []

    def after_update(metrics: dict[str, float]) -> bool:
        ends.append(metrics)
        return len(ends) < 2

    with untouched():
        make_agent(name, env, seed=0).learn(100 * real.episode_steps, after_update)
    assert len(env.step_seconds) == 1 and env.steps > 1
    assert {point["length_mean"] for point in ends} == {real.episode_steps}


def test_a_run_is_the_same_with_and_without(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an algorithm that draws from the global generators."""
    for name, least in (("without", 10**9), ("with", 0)):
        monkeypatch.setattr(said, "SHORT", least)
        train([*words, "agent=sb3/ppo", f"name={name}"], "")
        line = re.search(
            r"^Estimate: about \d+ s: training \d+ s, evaluation of 2 policies", capsys.readouterr().out, re.M
        )
        assert (line is not None) == (name == "with")
    for file in ("results.json", "policy/networks.safetensors"):
        assert (tmp_path / "with" / file).read_bytes() == (tmp_path / "without" / file).read_bytes()


def test_the_command_tells_runs_and_studies(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    estimate_job(words, "")
    out = capsys.readouterr().out
    assert "8 steps (2 students at a time): 16 student updates, 8 evaluations" in out
    assert "2 policies x 2 students: 16 student updates" in out and out.splitlines()[-1].startswith("about ")
    estimate_job([*words, "agents=[actor_critic]", "trainings=3", "jobs=2"], "")
    out = capsys.readouterr().out
    assert "actor_critic, 1 training, each" in out and "actor_critic, 2 trainings, each" in out
    assert re.search(r"^about \d+ s: 3 trainings, 2 at a time", out, re.M)
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_teacher_is_told_and_not_made(
    words: list[str], tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = [word for word in words if not word.startswith("teacher.path")]
    more = [f"teacher.name_or_path={tiny['teacher']}", f"cache_dir={tmp_path}/cache", "teacher.epochs=2"]
    estimate_job([*encoder, *more], "")
    assert re.search(r"is missing: .* 2 epochs of \d+ rows in batches of 32, \d+ updates", capsys.readouterr().out)
    assert not (tmp_path / "cache" / "teachers").exists()
