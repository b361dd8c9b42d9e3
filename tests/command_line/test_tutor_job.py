"""The main job in ``env=tutor_token``: trainings under both protocols, their files, studies, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.sb3.algorithms import ALGORITHMS
from cli.main import run
from cli.settings.compose import compose
from cli.settings.presets import groups
from cli.settings.read import check, read_settings
from kd_env.decisions.options import env_config
from kd_env.envs import DistillVectorEnv
from kd_env.envs.build import build_problem
from kd_files.manifest import digests
from tests.here import Here

pytestmark = pytest.mark.usefixtures("undrawn")
RECORDED: dict[str, dict[str, tuple[list[float], list[float]]]] = {
    "frozen": {
        "tutor": ([1.1100237, 1.0415966, 1.1096338], [0.5896326, 0.66293, 0.6095506]),
        "teacher_samples": ([0.2626471, 0.2245125, 0.2244571], [0.5978284, 0.6563162, 0.6073167]),
        "keep_masked": ([1.0711955, 0.9804633, 1.0272364], [0.5837043, 0.6424402, 0.5961269]),
    },
    "joint": {"tutor": ([1.208531], [0.6933134]), "keep_masked": ([1.0302271], [0.6771209])},
    "paper": {"tutor": ([1.0377737], [0.1564942]), "random_tokens": ([1.0381044], [0.1570606])},
    "labels": {
        "tutor": ([1.238307, 1.2672113], [-4.08e-05, 2.49e-05]),
        "random_tokens": ([1.2366914, 1.2470237], [-0.0001274, 5.1e-06]),
    },
}
"""Reward and gap closed on dev rows that ``kd-env tutor`` gave before the main job took its place."""
FROZEN = ["env.protocol=frozen", "env.budget=6", "num_envs=2", "total_timesteps=24"]
SAID = {
    "frozen": ["env=tutor_token", *FROZEN, "evaluation.seeds=3"],
    "joint": ["env=tutor_token", "env.budget=8"],
    "paper": ["experiment=tutor_paper", "env.budget=8"],
    "labels": ["env=tutor_token", "env.objective=labels", *FROZEN, "evaluation.seeds=2"],
}


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["policy"]: row for row in results(folder)["policies"]}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(str(folder / "model.safetensors"))


@pytest.mark.parametrize("name", list(RECORDED))
def test_numbers_are_those_of_the_former_job(name: str, tmp_path: Path) -> None:
    rules = [policy for policy in RECORDED[name] if policy != "tutor"]
    words = [*SAID[name], "agent=tutor", f"evaluation.rules=[{','.join(rules)}]", "env.evaluation_rows=32"]
    assert run("train", [*words, f"runs_dir={tmp_path}", "name=run", "progress=false", "env.samples=0"], "") == 0
    found = rows(tmp_path / "run")
    assert list(found) == list(RECORDED[name])
    for policy, (rewards, gaps) in RECORDED[name].items():
        np.testing.assert_allclose(found[policy]["seeds"]["reward"], rewards, rtol=1e-4, err_msg=policy)
        [dev] = [split for key, split in found[policy]["seeds"]["splits"].items() if key != "selection"]
        np.testing.assert_allclose(dev["gap_closed"], gaps, rtol=1e-4, atol=1e-6, err_msg=policy)


@pytest.fixture
def words(tiny_text: dict[str, Any], tmp_path: Path) -> list[str]:
    """A run that takes a second."""
    return [
        *("env=tutor_token", f"env.text={tiny_text['text']}", f"teacher.path={tiny_text['teacher']}"),
        *("student.hidden_size=8", "student.num_attention_heads=2", "task.feedback_rows=24", "task.selection_rows=24"),
        *("env.evaluation_rows=24", "env.slots=2", "env.num_candidates=4", "env.batch_size=4", "env.budget=8"),
        *("env.samples=2", "progress=false", f"runs_dir={tmp_path}", "evaluation.rules=[teacher_samples,keep_masked]"),
    ]


def frozen(words: list[str], *more: str) -> list[str]:
    return [
        *words,
        *("env.protocol=frozen", "num_envs=2", "total_timesteps=32", "checkpoint_every=16", "evaluation.seeds=3"),
        *more,
    ]


def test_a_training_writes_what_every_run_has(words: list[str], tmp_path: Path, undrawn: pytest.MonkeyPatch) -> None:
    undrawn.undo()
    assert run("train", frozen(words, "agent=tutor", "name=run"), "train_agent.py ...") == 0
    folder = tmp_path / "run"
    names = {"config.yaml", "command.txt", "overrides.json", "versions.json", "rows.json", "logs"}
    names |= {
        "kd_env_manifest.json",
        "policy",
        "checkpoint",
        "spaces.json",
        "results.json",
        "results.csv",
        "results.md",
        "learning_curve.png",
        "policies.png",
        "report.html",
        "traces.png",
    }
    assert {path.name for path in folder.iterdir()} == names
    data = results(folder)
    assert data["comparator"] in ("teacher_samples", "keep_masked") and data["best_rule"] == data["comparator"]
    assert data["headline"].startswith(("Above the best rule", "Nothing learned is above "))
    assert set(data["policies"][0]["seeds"]["splits"]) == {"selection", "dev"} and data["facts"]["slots"] == 2
    text = (folder / "results.md").read_text()
    samples = text.split("Texts, and as tutor edits them:\n\n")[1].splitlines()
    assert len(samples) == 4
    before, after = (line.split("`")[1].split() for line in samples[:2])
    changed = [(x, a) for x, a in zip(before, after, strict=True) if x.startswith("[w")]
    assert len(changed) == 2 and all(a.startswith("[") for _, a in changed)
    measures = {line.split(",")[3] for line in (folder / "results.csv").read_text().splitlines()}
    assert {"reward", "teacher_recognises", "gap_closed", "loss"} <= measures and "raw_loss" not in measures


def test_a_training_goes_on_and_a_policy_is_judged_again(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = frozen(words, "agent=tutor", "name=run")
    assert run("train", command, "") == 0
    folder = tmp_path / "run"
    first = results(folder)
    (folder / "results.json").unlink()
    assert run("train", [*command, "resume=true"], "") == 0
    assert results(folder) == {**first, "resumed": 1} and "is trained already" in capsys.readouterr().out
    assert run("evaluate", [f"run={folder}", "evaluation.seeds=2", "evaluation.rules=[keep_original]"], "") == 0
    again = rows(folder / "evaluations" / "1")
    assert list(again) == ["tutor", "keep_original"]
    plain = rows(folder)["tutor"]["seeds"]["splits"]["dev"]["loss"]
    assert np.shape(again["tutor"]["seeds"]["splits"]["dev"]["loss"]) == (2,) and np.shape(plain) == (3,)
    assert run("evaluate", [f"run={folder}", "env.action_view=candidates"], "") == 2
    assert "trained with other action view" in capsys.readouterr().err
    policy = digests(folder / "policy")
    shutil.rmtree(folder / "policy")
    assert run("train", [*command, "resume=true"], "") == 0  # from the last checkpoint
    assert digests(folder / "policy") == policy
    steps = [json.loads(line)["timesteps"] for line in (folder / "logs/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 32


# What libraries warn of when they are driven for a few steps is not what is tested here.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("agent", "protocol"),
    [
        *((agent, "joint") for agent in ("sb3/ppo", "sb3/dqn", "sb3/sac", "actor_critic", "rule/keep_original")),
        *((agent, "frozen") for agent in ("sb3/sac", "reinforce", "rule/keep_original")),
    ],
)
def test_other_agents_act_in_a_view_of_theirs(agent: str, protocol: str, words: list[str], tmp_path: Path) -> None:
    more = [f"agent={agent}", "name=run", "evaluation.rules=[keep_masked]"]
    own = {"sb3/ppo": "n_steps=4", "sb3/dqn": "learning_starts=2", "sb3/sac": "learning_starts=2"}.get(agent)
    more += [] if own is None else [f"agent.options.{own}"]
    command = frozen(words, *more) if protocol == "frozen" else [*words, *more]
    assert run("train", command, "") == 0
    found = rows(tmp_path / "run")
    assert results(tmp_path / "run")["joint"] == (protocol == "joint")
    label = agent.removeprefix("rule/")
    assert list(found) == [label, "keep_masked"]
    views = {"sb3/dqn": "discrete", "sb3/sac": "box", "rule/keep_original": "native"}
    assert found[label]["seeds"]["action_view"] == views.get(agent, "candidates")
    assert np.shape(found[label]["seeds"]["reward"]) == ((3,) if protocol == "frozen" else (1,))
    assert found[label]["learned"] == (agent != "rule/keep_original")
    assert not list((tmp_path / "run").rglob("replay.safetensors")) or protocol == "frozen"
    if agent != "rule/keep_original":
        history = [json.loads(line) for line in (tmp_path / "run/logs/metrics.jsonl").read_text().splitlines()]
        assert protocol == "frozen" or len(history) > 1 or history[0]["n_updates"] > 1, "it learns before the end"


def test_students_are_kept_and_read_by_transformers(
    words: list[str], tiny_text: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    assert run("train", frozen(words, "agent=tutor", "name=run", "save_students=2"), "") == 0
    folder = tmp_path / "run" / "students"
    assert {path.name for path in folder.iterdir()} == {"none", "tutor", "teacher_samples", "keep_masked"}
    plain = {key: value for key, value in tiny_text.items() if key != "optimizer"}
    # A start does not depend on what is decided and seen.
    env = DistillVectorEnv(2, decision="tutor_token", **plain, reward="gap_closed", action_view="box")
    env.reset(seed=[10000, 10001])
    params = env.run.started().params
    for replica in range(2):
        states = {
            name: AutoModelForTokenClassification.from_pretrained(folder / name / f"seed{10000 + replica}").state_dict()
            for name in ("none", "tutor", "keep_masked")
        }
        start = states["none"]
        assert all(torch.equal(start[name], values[replica]) for name, values in params.items() if name in start)
        for taught in ("tutor", "keep_masked"):
            assert any(not torch.equal(states[taught][name], start[name]) for name in start)
    assert len(AutoTokenizer.from_pretrained(folder / "none/seed10000")) == env.vocab_size


def test_a_joint_training_is_judged_by_its_own_student(
    words: list[str], tiny_text: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*words, "agent=tutor", "name=run", "evaluation.rules=[keep_original]", "seed=100"]
    assert run("train", command, "") == 0
    folder = tmp_path / "run"
    data = results(folder)
    assert data["joint"] and data["seeds"] == [100]
    assert {path.name for path in (folder / "students").iterdir()} == {"none", "tutor", "keep_original"}
    plain = {**tiny_text, "budget": 8}
    plain.pop("optimizer")
    problem = build_problem(env_config(decision="tutor_token", **plain))
    env = DistillVectorEnv(1, problem=problem, autoreset_mode="disabled")
    env.reset(seed=[100])
    for _ in range(8):
        env.step(env.original_tokens().numpy().reshape(1, -1))
    saved, params = weights(folder / "students/keep_original/seed100"), env.run.started().params
    for name, p in params.items():
        if name in saved:
            torch.testing.assert_close(saved[name], p[0], rtol=1e-4, atol=1e-6)
    (folder / "results.json").unlink()
    assert run("train", [*command, "resume=true"], "") == 0
    assert rows(folder)["tutor"]["seeds"]["reward"] == data["policies"][0]["seeds"]["reward"]
    capsys.readouterr()
    assert run("evaluate", [f"run={folder}"], "") == 2
    assert "on fresh students add env.protocol=frozen" in capsys.readouterr().err
    fresh = [f"run={folder}", "env.protocol=frozen", "evaluation.seeds=2"]
    assert run("evaluate", fresh, "") == 0
    assert np.shape(rows(folder / "evaluations" / "1")["tutor"]["seeds"]["reward"]) == (2,)


def test_a_student_that_diverges_ends_its_training(words: list[str], tmp_path: Path) -> None:
    more = ["agent=tutor", "name=run", "env.optimizer.learning_rate=1e30", "evaluation.rules=[]"]
    assert run("train", [*words, *more], "") == 0
    [row] = results(tmp_path / "run")["policies"]
    assert row["seeds"]["diverged"] == [True] and row["seeds"]["splits"]["dev"]["gap_closed"] == pytest.approx([-1.0])
    assert not (tmp_path / "run/students/tutor").exists()


def test_rows_of_a_task_are_edited_and_judged_by_its_labels(
    tiny: dict[str, Any], tiny_text: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    command = [
        *("env=tutor_token", "agent=tutor", "env.objective=labels", "task=custom", f"task.data_dir={tiny['data_dir']}"),
        *(f"teacher.path={tiny['teacher']}", f"env.language_model={tiny_text['teacher']}", "env.slots=2"),
        *("task.feedback_rows=32", "task.selection_rows=32", "env.batch_size=4", "env.budget=4", "progress=false"),
        *("student.hidden_size=8", "student.num_attention_heads=2", f"runs_dir={tmp_path}", "name=run"),
        "evaluation.rules=[keep_masked]",
    ]
    assert run("train", command, "") == 0
    row = rows(tmp_path / "run")["tutor"]
    [accuracy] = row["seeds"]["splits"]["validation"]["metrics"]["accuracy"]
    assert 0 <= accuracy <= 1 and "accuracy" in (tmp_path / "run/results.md").read_text()
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/students/tutor/seed0")
    assert student.config.num_labels == 2


def study(monkeypatch: pytest.MonkeyPatch, words: list[str], *more: str) -> int:
    monkeypatch.setattr("cli.jobs.study.opened", lambda *_: Here())
    return run("study", [*words, "trainings=2", "jobs=2", "name=study", *more], "kd-env study ...")


def test_a_joint_study_pairs_students(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    agents = "agents=[tutor,{name: tutor, label: k, options: {kl_coef: 0.1}, env: {mode: sequential}}]"
    assert study(monkeypatch, words, agents) == 0
    data = json.loads((tmp_path / "study" / "comparison.json").read_text())
    assert data["joint"] and data["seeds"] == [0, 100]
    assert [entry["policy"] for entry in data["entries"]] == ["tutor", "k", "teacher_samples", "keep_masked"]
    runs = {path.parent.name: rows(path.parent) for path in (tmp_path / "study").glob("*/results.json")}
    assert {name: len(found) for name, found in runs.items()} == {
        **{"toy-tutor-seed0": 3, "toy-tutor-seed100": 3},  # rules are judged once on each student
        **{"toy-k-seed0": 1, "toy-k-seed100": 1},
    }
    pairs = [
        tuple(runs[f"toy-tutor-seed{s}"][policy]["seeds"]["splits"]["dev"]["gap_closed"][0] for s in (0, 100))
        for policy in ("tutor", "keep_masked")
    ]
    [difference] = [one["difference"] for one in data["to_rules"] if (one["first"], one["second"]) == RULE]
    assert difference["interval"]["mean"] == pytest.approx(np.mean(pairs[0]) - np.mean(pairs[1]))
    assert (difference["interval"]["units"], difference["unit"]) == (2, "training")
    starts = [weights(tmp_path / f"study/toy-{name}-seed100/students/none/seed100") for name in ("tutor", "k")]
    assert all(torch.equal(value, starts[1][name]) for name, value in starts[0].items())
    assert "Each of 2 trainings of an agent had one student" in " ".join(capsys.readouterr().out.split())
    assert run("compare", [str(tmp_path / "study/toy-tutor-seed0"), str(tmp_path / "study/toy-k-seed100")], "") == 2
    assert "Students of one seed are pairs" in capsys.readouterr().err


RULE = ("tutor", "keep_masked")


def test_a_frozen_study_crosses_trainings_and_students(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study(monkeypatch, frozen(words), "agents=[tutor]", "evaluation.rules=[keep_masked]") == 0
    data = json.loads((tmp_path / "study" / "comparison.json").read_text())
    assert not data["joint"] and [entry["units"] for entry in data["entries"]] == [2, 3]
    assert data["entries"][0]["measures"]["reward"]["seeds"] == 3
    [one] = data["to_rules"]
    own, rule = (
        np.array([run["seeds"]["splits"]["dev"]["gap_closed"] for run in found])
        for found in (
            [rows(tmp_path / f"study/toy-tutor-seed{seed}")["tutor"] for seed in (0, 100)],
            [rows(tmp_path / "study/toy-tutor-seed0")["keep_masked"]],
        )
    )
    assert one["difference"]["interval"]["mean"] == pytest.approx((own - rule).mean())


def test_every_algorithm_gets_a_view_that_it_can_take() -> None:
    def view(agent: str, *more: str) -> tuple[str, str]:
        env = read_settings(compose("config", ["env=tutor_token", f"agent={agent}", *more])).env
        return env.action_view, env.observation

    presets = [name for name in groups()["agent"] if name.startswith("sb3/")]
    assert len(presets) == len(ALGORITHMS)
    found = {name: view(name) for name in (*presets, "actor_critic", "tutor")}
    assert found.pop("tutor") == ("native", "dict")
    box = {f"sb3/{name}" for name in ("sac", "td3", "ddpg", "tqc", "crossq")}
    discrete = {f"sb3/{name}" for name in ("dqn", "qrdqn", "ars")}
    for name, pair in found.items():
        assert pair == ("box" if name in box else "discrete" if name in discrete else "candidates", "flat"), name
    assert view("sb3/ppo", "env.action_view=box") == ("box", "flat")
    assert view("tutor", "env.action_view=candidates") == ("candidates", "dict")


def test_the_defaults_are_those_of_the_environment() -> None:
    """And of the former job: what is left to recipe and data stays so."""
    plain = env_config(decision="tutor_token")
    for words, config, budget in (
        (["env.protocol=frozen"], plain, 80),
        ([], plain, 800),
        (["env.recipe=paper", "student.dropout=0.1"], env_config(decision="tutor_token", recipe="paper"), 800),
        (["env.objective=labels"], env_config(decision="tutor_token", task="toy"), 800),
    ):
        found = read_settings(compose("config", ["env=tutor_token", "agent=tutor", *words]))
        one_layer = {**config.to_dict()["student"], "num_hidden_layers": 1}
        assert found.env.to_dict() == {**config.to_dict(), "budget": budget, "student": one_layer}
    c = read_settings(compose("config", ["env=tutor_token", "env.protocol=frozen"])).resolved
    assert (c["num_envs"], c["total_timesteps"], c["evaluation"]["seeds"], c["save_students"]) == (4, 3200, 10, 0)
    assert c["evaluation"]["deterministic"] is False
    assert read_settings(compose("config", ["experiment=tutor_paper"])).agent.options == {"recipe": "paper"}


def test_automatic_precision_is_one_that_is_asked_for() -> None:
    """Elsewhere ``auto`` leaves a value to the recipe."""
    found = read_settings(compose("config", ["env=tutor_token", "env.precision=auto"])).env
    assert found.precision == "auto" and read_settings(compose("config", ["env=tutor_token"])).env.precision == "fp32"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["env.protocol=jont"], "Did you mean 'joint'"),
        (["env.objective=label"], "Did you mean 'labels'"),
        (["env.recipe=papr"], "Did you mean 'paper'"),
        (["total_timesteps=30"], "one episode of env.budget=800 updates, which are 800 steps"),
        (["num_envs=2"], "learns beside one student"),
        (["evaluation.seeds=3"], "fresh students of env.protocol=frozen"),
        (["env.max_episode_steps=3"], "would cut the one episode"),
        (["pause.at=3"], "a pause judges a policy on fresh students"),
        (["control=untrained"], "leaves no student"),
        (["save_students=2"], "more than evaluation.seeds=1"),
        (["agent=reinforce"], "learns from whole episodes"),
        (["agent=sb3/ppo", "env.budget=97"], "no divisor from 2 to 32: choose another env.budget, as 128"),
        (["agent=sb3/ppo", "agent.options.n_steps=300"], "n_steps=300 steps, but the one episode"),
        (["agent=sb3/dqn", "agent.options.learning_starts=900"], "Set env.budget above 900"),
        (["env.protocol=frozen", "agent=sb3/sac", "agent.options.learning_starts=3200"], "nothing would be learned"),
        (["env.protocol=frozen", "experiment=tutor_paper", "num_envs=4"], "needs single environments"),
        (["env.protocol=frozen", "seed=10000"], "trains on evaluation seeds"),
        (["agent.options.kl_coeff=1"], "Did you mean 'kl_coef'"),
        (["agent=sb3/ppo", "agent.action_view=box"], "choose the view by env.action_view"),
        (["agent=sb3/dqn", "env.action_view=box"], "takes only Discrete"),
        (["agent=rule/all"], "decides 'knowledge_selection'"),
        (["agent=knowledge_selector"], "agent=knowledge_selector sets env.features, which env=tutor_token has not"),
        (["evaluation.rules=[teacher_sample]"], "Did you mean 'teacher_samples'"),
        (["evaluation.rules=[all]"], "evaluation.rules: The rule 'all' decides"),
        (["env.bugdet=1"], "Did you mean 'env.budget'"),
        (["teacher.name_or_path=encoder"], "kd-env teacher objective=mlm text=toy"),
        (["task=custom"], "task=custom names no texts"),
        (["env.objective=labels", "env.text=toy"], "labels has the rows of task"),
        (["task.label_noise=0.1"], "is not for env=tutor_token"),
        (["teachers=[{name: a, packaged: full}]"], "several teachers"),
        (["control=shuffled_feedback"], "possible: none, shuffled_reward, untrained"),
        (["vectorization=processes"], "whose replicas are stacked"),
        (["env.losses={plausibilty: 1}"], "Did you mean 'plausibility'"),
    ],
)
def test_mistakes_are_told_before_any_work(
    given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["agent=tutor"] if not any(word.startswith(("agent=", "experiment=")) for word in given) else []
    assert run("train", ["env=tutor_token", *base, *given, f"runs_dir={tmp_path}"], "") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_former_job_says_what_took_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["protocol=frozen"], ["--help"]):
        assert run("tutor", words, "kd-env tutor") == 2
        assert "kd-env tutor is now: kd-env study env=tutor_token agents=[tutor,sb3/ppo]" in capsys.readouterr().err


def test_rules_that_fit_are_found() -> None:
    found = check(read_settings(compose("config", ["env=tutor_token", "agent=tutor"])))
    assert {rule.name for rule in found.rules or ()} == {
        *("random_tokens", "teacher_samples", "teacher_argmax", "keep_masked", "keep_original", "difficult_of_n")
    }
