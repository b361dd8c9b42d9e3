"""``env.protocol=joint``: the student beside which an agent learns is the one that is judged and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents import make_agent
from cli.main import run
from cli.runs.checkpoints import Checkpoints
from kd_env.envs.environments import TutorTokenEnv
from kd_env.envs.process import make_problem, with_options
from kd_env.evaluation.judging.contenders import Contender
from kd_env.evaluation.judging.joint import JointEnv
from kd_env.evaluation.judging.protocol import evaluate_policies
from kd_env.evaluation.judging.tables import judged_tables
from kd_env.numerics.traces import Trace
from kd_files.manifest import digests

pytestmark = pytest.mark.usefixtures("undrawn")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(str(folder / "model.safetensors"))


def replayed(problem: Any, seed: int, actions: list[np.ndarray]) -> TutorTokenEnv:
    """A fresh student of ``seed`` under actions that were taken."""
    env = TutorTokenEnv(problem=problem)
    env.reset(seed=seed)
    for action in actions:
        env.step(action)
    return env


@pytest.mark.parametrize("mode", ["joint", "sequential"])
def test_the_student_of_the_training_is_the_result(mode: str, tutor_problem: Any, tmp_path: Path) -> None:
    """Its weights are those of the actions while the agent learned, its rewards their means, its gap its own on dev."""
    problem = with_options(tutor_problem, mode=mode, budget=20)
    judged = judged_tables(problem, 64)
    env = JointEnv(problem, judged, 300, "tutor")
    taken: list[np.ndarray] = []
    infos: list[dict[str, np.ndarray]] = []
    step = env.step

    def spied(actions: np.ndarray) -> Any:
        taken.append(np.array(actions[0]))
        out = step(actions)
        ended = "final_info" in out[4]
        infos.append({name: np.array((out[4]["final_info"] if ended else out[4])[name]) for name in NAMES})
        return out

    env.step = spied  # type: ignore[method-assign]
    agent = make_agent("tutor", env, seed=7, learning_rate=0.01)
    assert env.result is None
    agent.learn(env.episode_steps)
    result = env.result
    assert result is not None and len(taken) == env.episode_steps
    again = replayed(problem, 300, taken)
    assert again.run.ended[0]
    params = again.run.started().params
    env.save_student(tmp_path / "student", finished=True)
    saved = weights(tmp_path / "student")
    assert all(torch.equal(saved[name], p[0]) for name, p in params.items() if name in saved)
    on_dev = make_problem(problem.assets._replace(feedback=judged.tables["dev"]), problem.config)
    dev_loss = on_dev.objective.evaluate(on_dev, params, None).loss[0]
    assert result.splits["dev"].loss[0] == pytest.approx(dev_loss, rel=1e-9)
    measures = {measured.name: measured.values[0] for measured in result.measures}
    updates = [info for info in infos if info["updated"][0]]
    assert len(updates) == 20
    for name in ("teacher_recognises", "student_error", "plausibility"):
        assert measures[name] == pytest.approx(np.mean([info[name] for info in updates]), rel=1e-6)
    for name, part in (("first", updates[:2]), ("last", updates[-2:])):
        expected = np.mean([info["student_error"] for info in part])
        assert measures[f"student_error_{name}"] == pytest.approx(expected, rel=1e-6)
    # Under the tutor as it is now, a student of the same seed is another one: what protocol=frozen judges.
    contender = Contender(lambda env: agent, learned=True)
    frozen = evaluate_policies(problem, {"a": contender}, [300], deterministic=False, judged=judged).policies["a"]
    assert frozen.splits["dev"].loss[0] != result.splits["dev"].loss[0]


NAMES = ("updated", "teacher_recognises", "student_error", "plausibility")


def test_a_single_environment_keeps_the_student_of_its_learner(tiny_text: dict[str, Any], tmp_path: Path) -> None:
    """``learn`` resets the episode in the step that ends it; the finished student can be saved all the same."""
    env = gym.make("kd_env/TutorToken-v0", **tiny_text)
    base: Any = env.unwrapped
    with pytest.raises(ValueError, match="No episode of replica 0 has ended"):
        base.save_student(tmp_path / "none", finished=True)
    taken: list[np.ndarray] = []
    step = base.step
    base.step = lambda action: (taken.append(np.array(action)), step(action))[1]
    make_agent("tutor", env, seed=5).learn(base.episode_steps)
    base.save_student(tmp_path / "student", finished=True)
    again = replayed(base.problem, 5, taken)
    saved, params = weights(tmp_path / "student"), again.run.started().params
    assert all(torch.equal(saved[name], p[0]) for name, p in params.items() if name in saved)
    base.save_student(tmp_path / "present")
    start = weights(tmp_path / "present")
    assert any(not torch.equal(start[name], saved[name]) for name in saved), "a new episode has begun"


def test_an_evaluation_of_students_has_no_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", [f"students={tmp_path}", "protocol=joint"], "") == 2
    assert "Here no agent learns" in capsys.readouterr().err


@pytest.mark.parametrize("agent", [["agent=tutor"], ["agent=sb3/ppo", "agent.options.n_steps=4"]])
def test_a_training_that_is_stopped_in_its_one_episode_goes_on_as_if_it_had_not_been(
    agent: list[str], tiny_text: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice; policy, student, measures and results are equal to the bit."""
    command = [
        *("env=tutor_token", *agent, f"env.text={tiny_text['text']}", f"teacher.path={tiny_text['teacher']}"),
        *("student.hidden_size=8", "student.num_attention_heads=2", "task.feedback_rows=24", "task.selection_rows=24"),
        *("env.evaluation_rows=24", "env.slots=2", "env.num_candidates=4", "env.batch_size=4", "env.budget=24"),
        *("env.samples=0", "evaluation.rules=[keep_masked]", "progress=false", "checkpoint_every=4"),
        f"runs_dir={tmp_path}",
    ]
    assert run("train", [*command, "name=whole"], "") == 0
    save, saved = Checkpoints.save, 0

    def stopping(checkpoints: Checkpoints, *args: Any) -> None:
        nonlocal saved
        save(checkpoints, *args)
        saved += 1
        if saved in (1, 3):
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", stopping)
    assert [run("train", [*command, "name=stopped", "resume=true"], "") for _ in range(3)] == [130, 130, 0]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for name in ("policy", "students/sb3-ppo" if len(agent) > 1 else "students/tutor"):
        assert digests(whole / name) == digests(stopped / name)
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (whole, stopped))
    assert second == {**first, "resumed": 2}
    assert (whole / "joint.json").read_bytes() == (stopped / "joint.json").read_bytes()


def test_traces_hold_what_lists_would() -> None:
    values = np.random.default_rng(0).normal(size=(10_000, 2))
    trace = Trace()
    assert trace.array().shape == (0,) and len(trace) == 0
    for step in values[:5000]:
        trace.append(step)
    np.testing.assert_array_equal(trace.array(), values[:5000])
    again = Trace(trace.array())
    for step in values[5000:]:
        again.append(step)
    np.testing.assert_array_equal(np.stack(list(again)), values)
    assert len(again) == 10_000


def test_a_state_is_of_the_one_episode_alone(tutor_problem: Any, tmp_path: Path) -> None:
    env = JointEnv(with_options(tutor_problem, budget=2), judged_tables(tutor_problem, 16), 1, "tutor")
    with pytest.raises(ValueError, match="has not begun"):
        env.save_state(tmp_path / "state")
