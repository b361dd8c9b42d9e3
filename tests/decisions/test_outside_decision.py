"""A fifth decision, from outside the package: one file and its entry points are enough."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from outside_decision import ENTRY_POINTS, HIGHEST, LOWEST, LabelTemperature

from kd_env.decisions.catalog import DECISIONS
from kd_env.envs import DistillEnv

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parents[1]


class Played(NamedTuple):
    """What a process said, and the folder of its run."""

    lines: list[str]
    run: Path


@pytest.fixture(scope="module")
def played(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The main job and then environments, in one process where the other distribution is installed, too."""
    folder = tmp_path_factory.mktemp("played")
    installed = folder / "outside_decision-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-decision\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(ENTRY_POINTS)
    path = os.pathsep.join([str(ROOT), str(folder), str(HERE)])
    env = {**os.environ, "PYTHONPATH": path, "KD_ENV_RUNS": str(folder / "runs"), "OMP_NUM_THREADS": "1"}
    options = {key: value for key, value in tiny.items() if key not in ("terms", "features")}
    command = [sys.executable, "-c", CODE, repr(options), *WORDS.split()]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Played(done.stdout.splitlines(), folder / "runs" / "outside")


CODE = """
import ast, sys
from cli.main import run
assert run("train", sys.argv[2:], "train_agent.py") == 0
import gymnasium as gym, numpy as np, kd_env
from agents import make_rule
from gymnasium.utils.env_checker import check_env
options = ast.literal_eval(sys.argv[1])
env = gym.make("kd_env/LabelTemperature-v0", **options)
check_env(env.unwrapped, skip_render_check=True)
envs = gym.make_vec("kd_env/LabelTemperature-v0", num_envs=2, **options)
rule, (observations, _) = make_rule("cooling", envs), envs.reset(seed=3)
told = []
for _ in range(3):
    observations, *_, info = envs.step(rule.predict(observations)[0])
    told.append(info["label_temperature"].tolist())
print(told)
"""
WORDS = (
    "env.id=kd_env/LabelTemperature-v0 env.terms=[hard_label,tempered_label] env.budget=4 env.evaluation_rows=16 "
    "task.max_train_rows=64 agent.action_view=native agent.options.n_steps=2 num_envs=2 total_timesteps=8 "
    "evaluation.seeds=2 evaluation.jobs=1 evaluation.rules=[cooling] threads=1 progress=false name=outside"
)


def test_it_has_an_id_single_and_vector_environments_and_a_rule(played: Played) -> None:
    first, *_, last = json.loads(played.lines[-1])
    assert first == pytest.approx([HIGHEST, HIGHEST]) and last[0] < HIGHEST and last[0] == last[1]


def test_its_actions_reach_the_students_and_its_report(played: Played) -> None:
    assert "mean temperature" in (played.run / "results.md").read_text()
    results = json.loads((played.run / "results.json").read_text())
    rows = {row["policy"]: row for row in results["policies"]}
    assert 1.0 < rows["cooling"]["mean_label_temperature"]["mean"] < HIGHEST
    low, high = (results["measures"]["mean_label_temperature"]["bounds"][place] for place in (0, 1))
    assert (low, high) == (LOWEST, HIGHEST)


def test_another_temperature_is_another_student(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import outside_decision

    from kd_env.knowledge import TERMS
    from kd_env.mdp.observations.base import FEATURES

    for registry, name, item in (
        (DECISIONS, "label_temperature", LabelTemperature),
        (TERMS, "tempered_label", outside_decision.tempered_label),
        (FEATURES, "label_temperature", outside_decision.LAST_TEMPERATURE),
        (FEATURES, "teacher_student_distance", outside_decision.DISTANCE),
    ):
        assert name not in registry
        monkeypatch.setitem(registry._items, name, item)  # type: ignore[attr-defined]
    options = {key: value for key, value in tiny.items() if key not in ("terms", "features")}
    env = DistillEnv(**options, decision="label_temperature")
    losses = []
    for action in (-1.0, 1.0):
        env.reset(seed=0)
        observation, *_, info = env.step(np.array([action], np.float32))
        place = env.observation_layout["label_temperature"]
        assert observation[place.slice] == pytest.approx(LOWEST if action < 0 else HIGHEST)
        losses.append(info["loss"])
    assert losses[0] != losses[1]
    with pytest.raises(ValueError, match="needs the knowledge term 'tempered_label'"):
        DistillEnv(**{**tiny, "decision": "label_temperature"})
    with pytest.raises(ValueError, match="teacher_updates='weighted' lets the action weigh rows"):
        DistillEnv(
            **{**tiny, "decision": "label_temperature", "teacher_updates": "weighted", "teacher_source": "online"}
        )


def test_no_id_of_it_without_its_distribution() -> None:
    with pytest.raises(gym.error.Error):
        gym.make("kd_env/LabelTemperature-v0")
