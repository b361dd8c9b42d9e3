"""``protocol=joint``: the student beside which an agent learns is the one that is judged and kept."""

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
from kd_env.decisions.tutor_token.corpus import build_tutor_problem
from kd_env.decisions.tutor_token.options import TutorConfig
from kd_env.decisions.tutor_token.process import with_tutor_options
from kd_env.envs.tutor_env import TutorEnv, TutorVectorEnv
from kd_env.evaluation.judging.tutor_dev import with_dev_rows
from kd_env.evaluation.judging.tutoring import JointEnv, evaluate_tutors

STUDENT = {"hidden_size": 8, "num_attention_heads": 2}


def words(tiny_text: dict[str, Any], tmp_path: Path, *more: str, **env: Any) -> list[str]:
    """A tiny joint study; ``more`` takes the place of its options, ``env`` of those of the environment."""
    plain = {key: value for key, value in tiny_text.items() if key != "optimizer"}
    options = {
        **{"env": json.dumps({**plain, "student": STUDENT, "budget": 8, **env}), "trainings": "2", "samples": "1"},
        **{"progress": "false", "rules": "[keep_masked]", "runs_dir": str(tmp_path), "name": "study"},
        **dict(word.split("=", 1) for word in more),
    }
    return [f"{key}={value}" for key, value in options.items()]


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(str(folder / "model.safetensors"))


def replayed(problem: Any, seed: int, actions: list[np.ndarray]) -> TutorEnv:
    """A fresh student of ``seed`` under actions that were taken."""
    env = TutorEnv(problem=problem)
    env.reset(seed=seed)
    for action in actions:
        env.step(action)
    return env


@pytest.mark.parametrize("mode", ["joint", "sequential"])
def test_the_student_of_the_training_is_the_result(mode: str, tutor_problem: Any, tmp_path: Path) -> None:
    """Its weights are those of the actions while the agent learned, its rewards their means, its gap its own on dev."""
    problem = with_tutor_options(tutor_problem, mode=mode, budget=20)
    judged = with_dev_rows(problem, 64)
    env = JointEnv(problem, judged, seed=300)
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
    assert result.dev_loss[0] == pytest.approx(judged.lesson.evaluate(judged, params)[0], rel=1e-9)
    updates = [info for info in infos if info["updated"][0]]
    assert len(updates) == 20
    for name in ("teacher_recognises", "student_error", "plausibility"):
        assert getattr(result, name)[0] == pytest.approx(np.mean([info[name] for info in updates]), rel=1e-6)
    for name, part in (("first", updates[:2]), ("last", updates[-2:])):
        expected = np.mean([info["student_error"] for info in part])
        assert getattr(result, f"student_error_{name}")[0] == pytest.approx(expected, rel=1e-6)
    # Under the tutor as it is now, a student of the same seed is another one: what protocol=frozen judges.
    frozen = evaluate_tutors(problem, {"a": lambda env: agent}, [300], dev_rows=64)["a"]
    assert frozen.dev_loss[0] != result.dev_loss[0]


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


# What libraries warn of when they are driven for a few steps is not what is tested here.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_agent_on_tokens_has_its_own_student(
    tiny_text: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agents = [
        "tutor",
        "sb3/ppo",
        "sb3/dqn",
        "sb3/sac",
        "actor_critic",
        "{name: tutor, label: k, env: {mode: sequential}}",
    ]
    command = words(tiny_text, tmp_path, f"agents=[{','.join(agents)}]")
    assert run("tutor", command, "kd-env tutor") == 0
    folder, data = tmp_path / "study", results(tmp_path / "study")
    labels = ["tutor", "sb3-ppo", "sb3-dqn", "sb3-sac", "actor_critic", "k"]
    assert data["protocol"] == "joint" and list(data["agents"]) == labels
    for label in labels:
        assert data["agents"][label] == [f"{label}-seed0", f"{label}-seed100"]
        for seed in (0, 100):
            name = f"{label}-seed{seed}"
            assert np.shape(data["tutors"][name]["reward"]) == (1,)
            assert (folder / "students" / name / f"seed{seed}" / "model.safetensors").is_file()
            history = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
            assert len(history) > 1 or history[0]["n_updates"] > 1, "it learns before the end"
    assert np.shape(data["tutors"]["keep_masked"]["reward"]) == (2,)
    own = np.array([data["tutors"][f"tutor-seed{seed}"]["reward"][0] for seed in (0, 100)])
    rule = np.array(data["tutors"]["keep_masked"]["reward"])
    found = data["differences"]["reward"]["tutor"]["keep_masked"]["interval"]
    assert found["mean"] == pytest.approx((own - rule).mean()) and found["units"] == 2
    assert set(data["differences"]["reward"]["k"]) == {"keep_masked", *labels[:-1]}
    starts = {weights(path)["classifier.weight"].sum().item() for path in (folder / "students/none").iterdir()}
    assert len(starts) == 2
    assert "protocol=joint: each of 2 trainings" in capsys.readouterr().out

    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    judged = {path: path.stat().st_mtime_ns for path in (folder / "judged").iterdir()}
    assert run("tutor", command, "kd-env tutor") == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in {**stamps, **judged}.items())
    assert results(folder)["tutors"] == data["tutors"]
    lost = folder / "students/tutor-seed100/seed100/model.safetensors"
    before = weights(lost.parent)
    for path in lost.parent.iterdir():
        path.unlink()
    lost.parent.rmdir()
    assert run("tutor", command, "kd-env tutor") == 0
    assert all(torch.equal(value, before[name]) for name, value in weights(lost.parent).items()), "the same training"
    assert (folder / "tutor-seed0/networks.safetensors").stat().st_mtime_ns == stamps[
        folder / "tutor-seed0/networks.safetensors"
    ]
    assert run("tutor", [*command, "protocol=frozen"], "") == 2
    assert "other values of protocol, total_timesteps, num_envs" in capsys.readouterr().err


def test_rules_teach_ordinary_students_of_the_trainings_seeds(tiny_text: dict[str, Any], tmp_path: Path) -> None:
    assert run("tutor", words(tiny_text, tmp_path, "rules=[keep_original]", "save_students=1"), "") == 0
    folder = tmp_path / "study"
    plain = {**tiny_text, "student": STUDENT, "budget": 8}
    plain.pop("optimizer")
    problem = build_tutor_problem(TutorConfig.from_kwargs(**plain))
    env = TutorVectorEnv(1, problem=problem, autoreset_mode="disabled")
    env.reset(seed=[0])
    for _ in range(8):
        env.step(env.original_tokens().numpy().reshape(1, -1))
    saved, params = weights(folder / "students/keep_original/seed0"), env.run.started().params
    for name, p in params.items():
        if name in saved:
            torch.testing.assert_close(saved[name], p[0], rtol=1e-4, atol=1e-6)
    assert {path.name for path in (folder / "students").rglob("seed*")} == {"seed0"}


def test_the_published_recipe_has_dropout_and_single_students(tiny_text: dict[str, Any], tmp_path: Path) -> None:
    plain = {key: value for key, value in tiny_text.items() if key not in ("optimizer", "slots", "student")}
    env = json.dumps({**plain, "student": STUDENT, "budget": 8})
    command = words(tiny_text, tmp_path, f"env={env}", "recipe=paper", "rules=[random_tokens]")
    assert run("tutor", command, "kd-env tutor") == 0
    folder = tmp_path / "study"
    agent = json.loads((folder / "tutor-seed0/agent.json").read_text())["config"]
    assert (agent["recipe"], agent["baseline"], agent["max_grad_norm"], agent["schedule"]) == (
        *("paper", "none"),
        *(None, "linear"),
    )
    config = json.loads((folder / "students/tutor-seed0/seed0/config.json").read_text())
    assert config["hidden_dropout_prob"] == 0.1
    assert any(name.startswith("classifier.transform") for name in weights(folder / "students/tutor-seed0/seed0"))
    assert np.shape(results(folder)["tutors"]["random_tokens"]["reward"]) == (2,)
    judged = (folder / "judged/random_tokens.json").stat().st_mtime_ns
    assert run("tutor", command, "kd-env tutor") == 0
    assert (folder / "judged/random_tokens.json").stat().st_mtime_ns == judged


def test_a_student_that_diverges_ends_its_training(
    tiny_text: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["trainings=1", "rules=null"]
    command = words(tiny_text, tmp_path, *more, optimizer={"learning_rate": 1e30})
    assert run("tutor", command, "") == 0
    assert run("tutor", [*command, "total_timesteps=8"], "") == 0, "the same, said otherwise"
    assert "diverged and is not kept" in capsys.readouterr().out
    found = results(tmp_path / "study")["tutors"]["tutor-seed0"]
    assert found["diverged"] == [True] and found["dev_gap_closed"] == [0.0]
    assert not (tmp_path / "study/students/tutor-seed0").exists()
    assert len((tmp_path / "study/tutor-seed0.jsonl").read_text().splitlines()) < 8


def test_an_evaluation_of_students_has_no_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", [f"students={tmp_path}", "protocol=joint"], "") == 2
    assert "Here no agent learns" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("agents=[]", "an evaluation without training has no such student"),
        ("total_timesteps=30", "one episode of env.budget=800 updates, which are 800 steps"),
        ("num_envs=2", "learns beside one student"),
        ("evaluation_seeds=3", "fresh students of protocol=frozen"),
        ("max_episode_steps: 3", "would cut the one episode"),
        ("save_students=6", "more than the trainings=5"),
        ("protocol=jont", "Did you mean 'joint'"),
        ("agents=[reinforce]", "learns from whole episodes"),
        ("agents=[sb3/ppo] budget: 97", "no divisor from 2 to 32: choose another env.budget, as 128"),
        ("agents=[{name: sb3/ppo, options: {n_steps: 300}}]", "n_steps=300 steps, but the one episode"),
        ("agents=[{name: actor_critic, options: {n_steps: 800}}]", "a divisor of 800 that is below it"),
        ("agents=[{name: sb3/dqn, options: {learning_starts: 900}}]", "Set env.budget above 900"),
        ("agent=3", "options by name"),
        ("env=3", "options by name"),
    ],
)
def test_requests_without_one_student_are_refused(
    word: str, message: str, tiny_text: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = {key: value for key, value in tiny_text.items() if key not in ("optimizer", "budget")}
    given = {}
    for name in ("max_episode_steps", "budget"):
        word, colon, value = word.partition(f"{name}: ")
        given |= {name: int(value)} if colon else {}
    more = [word.strip()] if word else []
    if not word.startswith("env"):
        more.append(f"env={json.dumps({**env, 'student': STUDENT, **given})}")
    assert run("tutor", [*more, "name=x", f"runs_dir={tmp_path}"], "") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
