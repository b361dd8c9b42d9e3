"""The command line as a user meets it: jobs on a tiny task, resuming, and one clear line for every mistake."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cli.jobs.rejudged import composed_again, rejudged, with_experiment
from cli.jobs.study import plan
from cli.main import main, run
from cli.runs import folder as runs
from cli.runs.config import differences, read_config
from cli.runs.former import with_former_defaults, with_former_rate
from cli.runs.watch import read_history
from cli.settings import probe
from cli.settings.compose import compose
from cli.settings.kinds.base import PolicySpec, Settings
from cli.settings.options import split_options
from cli.settings.presets import groups
from cli.settings.read import read_settings
from kd_env import DistillVectorEnv
from kd_env.decisions.options import env_config
from kd_files.manifest import digests
from tests.here import in_turn

pytestmark = pytest.mark.usefixtures("undrawn")
ROOT = Path(__file__).resolve().parents[2]
Run = Any


@pytest.fixture(scope="module")
def base(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a main job that takes a second: 4 steps an episode, 4 replicas, 3 rollouts."""
    return [
        "task=custom",
        f"task.data_dir={tiny['data_dir']}",
        f"teacher.path={tiny['teacher']}",
        *("student=toy_small", "student.hidden_size=8", "task.feedback_rows=32", "task.selection_rows=32"),
        *("env.evaluation_rows=32", "env.batch_size=4", "env.budget=8", "env.optimizer.learning_rate=0.01"),
        *("num_envs=4", "total_timesteps=64", "checkpoint_every=32", "agent.options.n_steps=4"),
        *("evaluation.seeds=2", "evaluation.rules=[all,soft_label_only]", "progress=false"),
        f"cache_dir={tmp_path_factory.mktemp('cache')}",
    ]


@pytest.fixture(scope="module")
def finished(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    runs = tmp_path_factory.mktemp("runs")
    assert run("train", [*base, f"runs_dir={runs}"], "kd-env train") == 0
    return runs / "custom-actor_critic-seed0"


def fails(capsys: pytest.CaptureFixture[str], words: list[str], *expected: str) -> None:
    """Exit status 2 and one line on stderr that holds every expected word."""
    assert main(words) == 2
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) == 1, message
    assert message.startswith("kd-env")
    for word in expected:
        assert word in message


def load(folder: Path) -> dict[str, Any]:
    return read_config(folder / "config.yaml")


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())  # type: ignore[no-any-return]


def gaps(folder: Path, index: int = 0) -> list[float]:
    return results(folder)["policies"][index]["seeds"]["splits"]["validation"]["gap_closed"]  # type: ignore[no-any-return]


def test_processes_that_share_the_policies_judge_alike(finished: Path) -> None:
    words = [f"run={finished}", "evaluation.rules=[all,{name: random_soft, label: any weights}]"]
    for jobs in (1, 2):
        assert run("evaluate", [*words, f"evaluation.jobs={jobs}", f"name=jobs{jobs}"], "kd-env evaluate") == 0
    one, two = (results(finished / "evaluations" / f"jobs{jobs}") for jobs in (1, 2))
    assert [policy["policy"] for policy in two["policies"]] == ["actor_critic", "all", "any weights"]
    assert one["policies"] == two["policies"] and one["comparator"] == two["comparator"]


def test_a_run_folder_holds_everything(finished: Path, base: list[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name in ("config.yaml", "overrides.json", "command.txt", "versions.json", "results.json", "results.csv"):
        assert (finished / name).is_file()
    for name in (
        "weights.png",
        "learning_curve.png",
        "policies.png",
        "report.html",
        "results.md",
        "policy/agent.json",
        "policy/normalizer.safetensors",
        "spaces.json",
    ):
        assert (finished / name).is_file()
    assert list((finished / "logs").glob("events.out.tfevents.*"))
    assert [point["timesteps"] for point in read_history(finished / "logs")] == [16, 32, 48, 64]
    shown = EventAccumulator(str(finished / "logs")).Reload()
    assert {"train/policy_loss", "policy/entropy", "policy/weight_soft_label", "student/gap_closed"} <= set(
        shown.Tags()["scalars"]
    )
    assert {"eval/weights", "eval/learning_curve"} <= set(shown.Tags()["images"])
    (judged,) = shown.Scalars("eval/selection/gap_closed/soft_label_only")
    row = next(row for row in results(finished)["policies"] if row["policy"] == "soft_label_only")
    assert judged.step == 64 and judged.value == pytest.approx(row["gap_closed"]["selection"]["mean"], rel=1e-4)
    assert (finished / "command.txt").read_text().startswith("kd-env train task=custom")
    assert "${" not in (finished / "config.yaml").read_text()
    data = results(finished)
    assert [row["policy"] for row in data["policies"]] == ["actor_critic", "all", "soft_label_only"]
    assert data["seeds"] == [10000, 10001]
    assert data["comparator"] in ("all", "soft_label_only")
    assert data["facts"]["saw_feedback"] == "unknown"


def test_an_existing_run_is_not_overwritten(
    finished: Path, base: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "results.json").read_bytes()
    words = ["train", *base, f"runs_dir={finished.parent}"]
    fails(capsys, words, "exists", "resume=true", "name=")
    fails(capsys, [*words, "resume=true", "env.budget=6"], "env.budget", "resume")
    assert (finished / "results.json").read_bytes() == before


def test_resume_goes_on_from_the_checkpoint(
    finished: Path, base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an episode, and ends like a training that was never stopped, to the last bit."""
    from agents.policy_gradient.actor_critic import ActorCritic

    original = ActorCritic._update

    def interrupted(self: Any, rollout: Any) -> Any:
        if self.num_timesteps >= 64:
            raise KeyboardInterrupt
        return original(self, rollout)

    words = [*base, f"runs_dir={tmp_path}", "name=cut"]
    monkeypatch.setattr(ActorCritic, "_update", interrupted)
    assert run("train", words, "kd-env train") == 130
    monkeypatch.undo()
    folder = tmp_path / "cut"
    assert not (folder / "policy").exists() and (folder / "checkpoint").is_dir()
    assert [point["timesteps"] for point in read_history(folder / "logs")] == [16, 32, 48]
    assert run("train", [*words, "resume=true"], "kd-env train") == 0
    # The checkpoint is that of step 32: what was logged after it happened again.
    assert [point["timesteps"] for point in read_history(folder / "logs")] == [16, 32, 48, 64]
    assert (folder / "results.json").is_file()
    assert digests(folder / "policy") == digests(finished / "policy")
    # A finished run that is resumed is only judged again, with the same outcome.
    first = gaps(folder)
    assert run("train", [*words, "resume=true"], "kd-env train") == 0
    assert gaps(folder) == first


def test_runs_that_began_under_the_former_default_learning_rate(
    base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cut student had 0.007 where nothing was chosen: such a run goes on and is judged as it began."""
    rate = "env.optimizer.learning_rate"
    plain = [text for text in base if not text.startswith(("student", rate, "evaluation.rules"))]
    words = [*plain, "student=first1", "evaluation.rules=[all]", f"runs_dir={tmp_path}/old"]
    assert run("train", [*words, f"{rate}=0.007"], "kd-env train") == 0
    folder = tmp_path / "old" / "custom-actor_critic-seed0"
    (folder / "overrides.json").write_text(json.dumps(words))  # as an earlier version left it
    (folder / "kd_env_manifest.json").unlink()
    first = gaps(folder)

    def used(path: Path) -> Any:
        return load(path)["env"]["optimizer"]["learning_rate"]

    assert run("train", [*words, "resume=true"], "kd-env train") == 0
    assert used(folder) == 0.007 and gaps(folder) == first
    capsys.readouterr()
    assert main(["evaluate", f"run={folder}"]) == 0
    assert f"config.yaml is what counts: {rate} (0.007 there, 0.0003 by overrides.json)." in capsys.readouterr().err
    assert used(folder / "evaluations" / "1") == 0.007 and gaps(folder / "evaluations" / "1") == first
    fails(capsys, ["train", *words, "resume=true", f"{rate}=0.0003"], rate, "resume")
    options, own = split_options("study", [*words[:-1], f"runs_dir={tmp_path}", "name=old", "trainings=1"])
    assert plan(options, own)[0].settings.env.optimizer_config.rate == 0.007
    with pytest.raises(ValueError, match=r"learning_rate is 0\.007 in the first and 0\.0003 in the second"):
        plan({**options, "trainings": 2}, own)  # a new training beside it, which nothing tells how the study began

    other = compose("config", [*plain, "student=pretrained", "student.name_or_path=folder"])
    assert with_former_rate(load(folder), other) == other  # not the kind of student that the run began with
    shutil.rmtree(folder / "policy")
    for name in ("logs", "checkpoint"):
        shutil.rmtree(folder / name)
    (folder / "results.json").unlink()
    assert runs.begun_config(folder) is None  # it failed before its training: begun anew


def test_runs_of_earlier_versions_are_what_they_were() -> None:
    """Options that there were not stand for what was done without them; a policy sees the loss it has learned on."""
    now = compose("config", ["task=toy"])
    env = {key: value for key, value in now["env"].items() if key != "gap"}
    student = {key: value for key, value in now["student"].items() if key != "zero_head"}
    teacher = {key: value for key, value in (now["env"].get("learning_teacher") or {}).items() if key != "dropout"}
    before = {**now, "student": student, "env": {**env, "gap": "labels", "learning_teacher": teacher}}
    before["env"]["influence"] = {k: v for k, v in (now["env"].get("influence") or {}).items() if k != "clip"}
    composed = {**now, "env": {"learning_teacher": {}, "influence": {}, **now["env"]}}
    assert differences(with_former_defaults(before), with_former_defaults(composed)) == ["env.gap"]
    teachers = compose("config", ["task=toy", "env=teacher_weighting"])
    unfilled = {key: value for key, value in teachers["env"].items() if key != "fills"}
    assert not differences(with_former_defaults({**teachers, "env": unfilled}), with_former_defaults(teachers))
    words = ["task=toy"]
    for given, gap in ([], "labels"), (["env.gap=calibrated"], "calibrated"):
        judged, _ = rejudged(before, words, given, composed_again(before, words, given))
        assert judged["env"]["gap"] == gap
    asked = {**before, "env": {**before["env"], "score": "influence"}}
    assert "clip" not in with_former_defaults(asked)["env"]["influence"]  # it was another influence


def test_a_run_is_judged_under_the_experiment_that_it_had() -> None:
    """Runs of earlier versions had none by default; those of the default keep it where another task is named."""
    assert with_experiment({"presets": {"task": "toy"}}, ["seed=1"]) == ["experiment=none", "seed=1"]
    kept = with_experiment({"presets": {"experiment": "wrong_labels"}}, [])
    assert compose("config", [*kept, "task=toy_pair"])["task"]["label_noise"] == 0.8
    assert with_experiment({"presets": {"experiment": "ks_paper"}}, ["experiment=ks"]) == ["experiment=ks"]


def test_evaluate_repeats_a_run_and_goes_elsewhere(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", f"run={finished}"]) == 0
    again = finished / "evaluations" / "1"
    for index in range(3):
        np.testing.assert_allclose(gaps(again, index), gaps(finished, index), rtol=1e-6)
    assert main(["evaluate", str(finished), "student.hidden_size=16", "evaluation.seeds=3", "name=wider"]) == 0
    assert len(gaps(finished / "evaluations" / "wider")) == 3
    capsys.readouterr()
    fails(capsys, ["evaluate", f"run={finished}", "env.features=[progress,gap]"], "observation features", "gap (1,)]")
    fails(capsys, ["evaluate", f"run={finished}", "env.action_view=discrete"], "action components", "[none, hard_label")
    fails(capsys, ["evaluate", f"run={finished}", "task=toy", "task.data_dir=null"], "teacher.path=null for the one")
    fails(capsys, ["evaluate", f"run={finished.parent}"], "no run folder", "config.yaml")
    fails(capsys, ["evaluate"], "run=<folder>")


def test_evaluate_refuses_what_means_something_else(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal sizes are not enough, and the policy keeps its name."""
    words = ["evaluate", f"run={finished}"]
    swapped = "env.terms=[soft_label,hard_label,hidden_states,relation]"
    fails(capsys, [*words, swapped], "knowledge terms", "[hard_label, soft_label,", "[soft_label, hard_label,")
    features = list(load(finished)["env"]["features"])
    features[0], features[1] = features[1], features[0]
    fails(capsys, [*words, f"env.features=[{','.join(features)}]"], "features", "[remaining_budget (1,), progress (1,)")
    for override in ("agent=sb3/ppo", "agent.options.n_steps=8", "agent=rule/all"):
        fails(capsys, [*words, override], "'actor_critic'", "kd-env train agent=")
    other = {**load(finished), "agent": {"name": "reinforce", "options": {}}}
    with monkeypatch.context() as patch:  # as by an experiment that names an agent
        patch.setattr("cli.jobs.evaluate.composed_again", lambda *_: other)
        fails(capsys, words, "'actor_critic'", "kd-env train agent=")
    assert all(path.name in ("1", "wider", "jobs1", "jobs2") for path in (finished / "evaluations").glob("*"))


def test_runs_without_what_they_were_trained_with(tmp_path: Path, tiny_problem: Any) -> None:
    env = DistillVectorEnv(1, problem=tiny_problem)
    with pytest.raises(ValueError, match=r"spaces\.json is missing"):
        runs.check_spaces(tmp_path, env)
    runs.write_spaces(tmp_path, env)
    runs.check_spaces(tmp_path, env)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kd_env_manifest.json", "spaces.json"]


def test_a_run_that_failed_before_its_training_does_not_block_the_next(
    base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [word for word in base if not word.startswith("agent.options")]
    words = ["train", *words, f"runs_dir={tmp_path / 'runs'}", "agent=rule/all", "evaluation.rules=[all]", "name=mine"]
    fails(capsys, [*words, "student.num_attention_heads=3"], "student.num_attention_heads=3")
    assert not list((tmp_path / "runs").iterdir())

    def broken(*_: Any) -> None:
        raise ValueError("found late")

    with monkeypatch.context() as patch:
        patch.setattr("cli.jobs.train.learn", broken)
        fails(capsys, [*words, "env.budget=6"], "found late")
    assert main(words) == 0
    assert load(tmp_path / "runs" / "mine")["env"]["budget"] == 8
    fails(capsys, words, "exists", "resume=true")
    (tmp_path / "file").touch()
    fails(capsys, [*words, f"runs_dir={tmp_path / 'file' / 'runs'}"], "cannot be made", "runs_dir=...")


def test_an_existing_folder_is_refused_before_any_work(
    finished: Path, base: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.jobs.kinds.prepare.load_problem", lambda *_: pytest.fail("a teacher was made first"))
    fails(capsys, ["train", *base, f"runs_dir={finished.parent}"], "exists", "resume=true")
    other = finished.parent / "notes"
    other.mkdir()
    (other / "text").touch()
    fails(capsys, ["train", *base, f"runs_dir={finished.parent}", "name=notes"], "exists")
    fails(capsys, ["train", *base, f"runs_dir={finished.parent}", "name=notes", "resume=true"], "no run folder")


def test_greedy_needs_a_reward_at_every_step() -> None:
    def settings(*overrides: str) -> Settings:
        return probe.check(read_settings(compose("config", ["task=toy", *overrides])))

    def names(given: Settings) -> list[str]:
        return [rule.name for rule in given.rules or ()]

    assert "greedy" in names(settings())
    assert names(settings("env.evaluate_every=0")) == [name for name in names(settings()) if name != "greedy"]
    for words in (["evaluation.rules=[all,greedy]"], ["agent=rule/greedy"]):
        with pytest.raises(ValueError, match=r"'greedy'.*env\.evaluate_every=2"):
            settings(*words, "env.evaluate_every=2")
        settings(*words)


def test_lgtm_needs_as_many_feedback_rows_as_it_draws() -> None:
    def settings(*overrides: str) -> Settings:
        return probe.check(read_settings(compose("config", ["env=sample_weighting", *overrides])))

    assert "lgtm" in [rule.name for rule in settings("env.action_view=native").rules or ()]
    few = ("env.action_view=native", "env.evaluation_rows=8")
    assert "lgtm" not in [rule.name for rule in settings(*few).rules or ()]
    for words in (["evaluation.rules=[uniform,lgtm]"], ["agent=rule/lgtm"]):
        for rows in ("env.evaluation_rows=8", "task.feedback_rows=8"):
            with pytest.raises(ValueError, match=r"draws 16 feedback rows.*only 8 are evaluated"):
                settings("env.action_view=native", *words, rows)
            settings("env.action_view=native", *words, rows, "env.influence.rows=8")


def test_a_rule_in_place_of_an_agent(base: list[str], tmp_path: Path) -> None:
    words = [word for word in base if not word.startswith("agent.options")]
    assert run("train", [*words, f"runs_dir={tmp_path}", "agent=rule/all"], "kd-env train") == 0
    folder = tmp_path / "custom-all-seed0"
    rows = results(folder)["policies"]
    assert [row["policy"] for row in rows] == ["all", "soft_label_only"]
    assert not any(row["learned"] for row in rows)
    assert main(["evaluate", f"run={folder}"]) == 0
    assert gaps(folder / "evaluations" / "1") == pytest.approx(gaps(folder))


def test_label_noise_shows_rules_with_the_clean_feedback_rows(base: list[str], tmp_path: Path) -> None:
    words = [*base, f"runs_dir={tmp_path}", "task.label_noise=0.4", "name=noisy"]
    assert run("train", words, "kd-env train") == 0
    data = results(tmp_path / "noisy")
    names = [row["policy"] for row in data["policies"]]
    assert names[1:] == ["all", "soft_label_only", "all (train+feedback)", "soft_label_only (train+feedback)"]
    assert data["comparator"] in ("all", "soft_label_only")
    assert "40% of the train labels" in data["words"]
    # More labels, other batches: the students are not the same.
    assert gaps(tmp_path / "noisy", 1) != gaps(tmp_path / "noisy", 3)


@pytest.fixture(scope="module")
def weighing(base: list[str], tiny_set: dict[str, Any]) -> list[str]:
    """Overrides of a main job that weighs three teachers; without an agent."""
    left_out = ("teacher.path", "agent.", "env.budget", "evaluation.rules", "num_envs", "total_timesteps")
    teachers = ",".join(f"{{name: {one['name']}, path: {one['path']}}}" for one in tiny_set["teachers"])
    return [
        *(word for word in base if not word.startswith(left_out)),
        *("env=teacher_weighting", "env.budget=4", "env.updates_per_step=1", f"teachers=[{teachers}]"),
        *("num_envs=2", "total_timesteps=16", "teacher.check=none"),
    ]


def test_a_policy_with_a_replay_buffer_is_judged_again(
    weighing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The buffer fits the replicas of the training only; judging needs none. Ready teachers are of one task."""
    pytest.importorskip("stable_baselines3")
    words = [*weighing, "agent=sb3/sac", "agent.action_view=simplex", "agent.options.learning_starts=4"]
    words += ["evaluation.rules=[average,mt_bert]", f"runs_dir={tmp_path}", "name=sac"]
    assert run("train", words, "kd-env train") == 0
    folder = tmp_path / "sac"
    monkeypatch.setattr("cli.jobs.contenders.side_by_side", in_turn)
    for jobs in (1, 2):  # mt_bert gives effects in place of actions
        assert run("evaluate", [f"run={folder}", f"evaluation.jobs={jobs}", f"name=jobs{jobs}"], "kd-env") == 0
        assert results(folder / "evaluations" / f"jobs{jobs}")["policies"] == results(folder)["policies"]
    capsys.readouterr()
    elsewhere = ["evaluate", f"run={folder}", "task=toy", "task.data_dir=null"]
    fails(capsys, elsewhere, "right, deep, wide are ready ones for custom", "teachers=[...] for toy")
    # Three components of the same box, which mean other weights.
    box = ["env.action_view=box", "env.gate=false"]
    fails(capsys, ["evaluate", f"run={folder}", *box], "other action view: [simplex]", "[box]")


def test_a_policy_that_rows_share_is_judged_at_another_batch_size(
    weighing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*weighing, "agent=teacher_selector", "agent.options.episodes_per_update=2", "env.weighting=sample"]
    words += ["evaluation.rules=[average]", f"runs_dir={tmp_path}", "name=rows"]
    assert run("train", words, "kd-env train") == 0
    folder = tmp_path / "rows"
    monkeypatch.setattr("cli.jobs.contenders.side_by_side", in_turn)
    for jobs in (1, 2):
        other = [f"run={folder}", "env.batch_size=6", f"evaluation.jobs={jobs}", f"name=jobs{jobs}"]
        assert run("evaluate", other, "kd-env") == 0
    first, second = (results(folder / "evaluations" / f"jobs{jobs}")["policies"] for jobs in (1, 2))
    assert first == second and first != results(folder)["policies"]
    capsys.readouterr()
    fails(capsys, ["evaluate", f"run={folder}", "env.features=[row_student]"], "other observation features", "('B', 3)")


def test_weighs_is_checked_before_a_teacher_is_made(weighing: list[str]) -> None:
    chosen = read_settings(compose("config", [*weighing, "agent=reinforce", "env.weighs=[hard_label]"]))
    with pytest.raises(ValueError, match="'hard_label', which has no teacher to be weighed"):
        probe.ProbeEnv(chosen.env, 1, probe.teacher_names(chosen))


def test_rules_that_regression_has_no_features_for_are_left_out(tiny_regression: dict[str, Any]) -> None:
    """Before the agent is trained, not when it is judged."""
    config = env_config(
        **{
            **{key: value for key, value in tiny_regression.items() if key != "terms"},
            "decision": "teacher_weighting",
            "features": ["student_on_batch", "teacher_losses"],
        }
    )
    assert probe.rule_view(PolicySpec("mt_bert", {}, "mt_bert"), config, ["a", "b"]) == "native"
    with pytest.raises(ValueError, match="which regression has not"):
        probe.rule_view(PolicySpec("dynamic_soft", {}, "dynamic_soft"), config, ["a", "b"])


# Libraries that load and save models announce what they do as warnings.
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_missing_teacher_is_made_once(base: list[str], tiny: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoModel

    shutil.copytree(tiny["teacher"], tmp_path / "encoder")
    # Only pre-trained: with prediction layers, nobody would know what they had been trained on.
    AutoModel.from_pretrained(tiny["teacher"]).save_pretrained(tmp_path / "encoder")
    encoder = [f"teacher.name_or_path={tmp_path / 'encoder'}", "teacher.path=null", "teacher.epochs=1"]
    words = [*(w for w in base if not w.startswith(("teacher.path", "cache_dir"))), *encoder, f"cache_dir={tmp_path}"]
    words += [f"runs_dir={tmp_path / 'runs'}", "agent=rule/all", "evaluation.rules=[all]"]
    words = ["teacher.check=none", *(word for word in words if not word.startswith("agent.options"))]
    assert run("train", [*words, "name=a"], "kd-env train") == 0
    (teacher,) = (tmp_path / "teachers").iterdir()
    written = (teacher / "model.safetensors").stat().st_mtime_ns
    assert run("train", [*words, "name=b"], "kd-env train") == 0
    assert (teacher / "model.safetensors").stat().st_mtime_ns == written
    assert results(tmp_path / "runs" / "b")["facts"]["saw_feedback"] == "no"
    # With wrong labels the rules that see feedback rows learn from the teacher that was made, too.
    noisy = [*words, "name=c", "task.label_noise=0.3", "evaluation.rules=[all,soft_label_only]"]
    assert run("train", noisy, "kd-env train") == 0
    assert [row["policy"] for row in results(tmp_path / "runs" / "c")["policies"]][-1].endswith("(train+feedback)")
    # The teacher command writes the same teacher where it is told to, on the same split.
    task = [w for w in base if w.startswith("task")]
    assert (
        main(["teacher", *task, *encoder, f"output={tmp_path / 'own'}", f"cache_dir={tmp_path}", "progress=false"]) == 0
    )
    records = [json.loads((folder / "kd_env_teacher.json").read_text()) for folder in (tmp_path / "own", teacher)]
    assert records[0]["fingerprint"] == records[1]["fingerprint"]


def of_teachers(base: list[str], folder: Path) -> list[str]:
    """Overrides of a job in which the rules alone weigh teachers; its teachers are made in ``folder``."""
    left = [word for word in base if not word.startswith(("teacher.path", "cache_dir", "agent.options", "evaluation."))]
    return [
        *left,
        *(
            "env=teacher_weighting",
            "teacher.check=none",
            "agent=rule/mt_bert",
            "evaluation.rules=[average]",
            "evaluation.seeds=2",
        ),
        *(f"cache_dir={folder}", f"runs_dir={folder / 'runs'}"),
    ]


MEMBERS = "[{name: whole}, {name: half, num_hidden_layers: 1}]"
SHORT = ("teacher.epochs=2", "teacher.batch_size=16", "teacher.learning_rate=0.003")


def test_a_set_is_made_and_used(
    base: list[str], tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = [*SHORT, f"teacher.name_or_path={tiny['teacher']}"]
    task = [word for word in base if word.startswith("task")]
    here = [f"members={MEMBERS}", f"output={tmp_path / 'set'}", f"cache_dir={tmp_path}", "progress=false"]
    assert main(["teacher", *task, *shared, *here, "teacher.shared_width=8"]) == 0
    said = capsys.readouterr().out
    assert "Set of 2 teachers of custom" in said and "whole: {'loss':" in said and "half: {'loss':" in said
    assert f"env=teacher_weighting cofinetuned={tmp_path / 'set'}" in said
    assert json.loads((tmp_path / "set" / "kd_env_set.json").read_text())["shared_width"] == 8

    # The folder of a set.
    words = of_teachers(base, tmp_path)
    assert main(["train", *words, f"cofinetuned={tmp_path / 'set'}", "name=given"]) == 0
    data = results(tmp_path / "runs" / "given")
    assert [row["policy"] for row in data["policies"]] == ["mt_bert", "average"]
    assert not (tmp_path / "teachers").exists()
    elsewhere = ["evaluate", f"run={tmp_path / 'runs' / 'given'}", "task=toy", "task.data_dir=null"]
    fails(capsys, elsewhere, "for custom; give cofinetuned=<folder or members> for toy")

    # Made first, once, and the same that `kd-env teacher` makes there.
    made = [*words, *shared, f"cofinetuned={MEMBERS}"]
    assert main(["train", *made, "name=a"]) == 0
    (folder,) = (tmp_path / "teachers").iterdir()
    assert folder.name.startswith("custom-set-")
    written = (folder / "whole" / "model.safetensors").stat().st_mtime_ns
    assert main(["train", *made, "name=b"]) == 0
    again = [word for word in here if not word.startswith("output")]
    assert main(["teacher", *task, *shared, *again]) == 0
    assert [path.name for path in (tmp_path / "teachers").iterdir()] == [folder.name]
    assert (folder / "whole" / "model.safetensors").stat().st_mtime_ns == written
    assert gaps(tmp_path / "runs" / "a") == gaps(tmp_path / "runs" / "b")
    assert main(["evaluate", f"run={tmp_path / 'runs' / 'a'}"]) == 0
    assert gaps(tmp_path / "runs" / "a" / "evaluations" / "1") == pytest.approx(gaps(tmp_path / "runs" / "a"))


def test_a_study_makes_a_set_before_its_processes(
    base: list[str], tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cli.jobs import study

    seen = []

    def processes(children: list[Any], *_: Any, **__: Any) -> list[Any]:
        (folder,) = (tmp_path / "teachers").iterdir()
        seen.append((len(children), (folder / "kd_env_set.json").is_file()))
        return []

    monkeypatch.setattr(study, "run_all", processes)
    words = [word for word in of_teachers(base, tmp_path) if not word.startswith("agent")]
    words += [f"teacher.name_or_path={tiny['teacher']}", *SHORT, f"cofinetuned={MEMBERS}"]
    study.study([*words, "agents=[actor_critic,reinforce]", "trainings=2"], "")
    assert seen == [(4, True)]
    # Processes read the overrides again.
    trainings = study.plan(*split_options("study", [*words, "trainings=1"]))
    again = read_settings(compose("config", list(trainings[0].overrides)))
    assert again.cofinetuned == trainings[0].settings.cofinetuned and again.cofinetuned is not None
    assert probe.teacher_names(again) == ("whole", "half")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("5", ["=5", "list of mappings", "num_hidden_layers"]),
        ("[]", ["=[]", "list of mappings"]),
        ("[six]", ["['six']", "list of mappings"]),
        ("[{nme: a}]", ["'nme'", "Did you mean 'name'"]),
        ("[{seed: 1}]", ["needs name"]),
        ("[{name: a/b}]", ["members[0].name='a/b'"]),
        ("[{name: a}, {name: a, seed: 1}]", ["Two members", "'a'"]),
        ("[{name: a, seed: -1}]", ["members[0].seed=-1"]),
        ("[{name: a, epochs: 2}]", ["epochs is the whole set's", "teacher.epochs"]),
        ("[{name: a, keep: last}]", ["keep is the whole set's", "teacher.keep"]),
        ("[{name: a, label_noise: 0.4}]", ["label_noise is the whole set's", "task.label_noise"]),
        ("[{name: a, hidden_size: 8}]", ["members[0].hidden_size=8", "init=fresh"]),
        ("[{name: a, packaged: ful}]", ["'ful'", "Did you mean 'full'"]),
        ("[{name: a, packaged: full, name_or_path: x}]", ["packaged and name_or_path"]),
        ("[{name: a, path: x}]", ["'path'", "name_or_path"]),
    ],
)
def test_mistakes_about_sets(
    given: str, expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same for both commands, before any work."""
    fails(capsys, ["teacher", f"members={given}", f"output={tmp_path / 'set'}"], *expected)
    train = ["train", "env=teacher_weighting", f"runs_dir={tmp_path}", f"cache_dir={tmp_path}"]
    fails(capsys, [*train, f"cofinetuned={given}"], *expected)
    assert not list(tmp_path.iterdir())


def test_more_mistakes_about_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = ["train", "env=teacher_weighting", f"runs_dir={tmp_path}", f"cache_dir={tmp_path}"]
    one = "cofinetuned=[{name: a}]"
    fails(capsys, [*train, f"cofinetuned={tmp_path}"], str(tmp_path), "holds no set of teachers")
    fails(capsys, [*train, one, "teachers=[{name: b, packaged: full}]"], "cofinetuned and teachers both")
    fails(capsys, [*train, one, "teacher.path=x"], "cofinetuned and teacher.path both")
    fails(capsys, [*train, one, "task=rte"], "{'name': 'a'}", "teacher.name_or_path")
    fails(capsys, [*train, one, "teacher.shared_width=0"], "shared_width=0")
    fails(capsys, [*train, "cofinetuned=[{name: a, packaged: full}]", "task=rte"], "packaged='full'", "toy_pair")
    fails(capsys, [*train, "teacher.name_or_path=x", "teacher.shared_width=8"], "shared_width=8", "single teacher")
    fails(capsys, ["teacher", "members=[{name: a}]", "teacher.path=x"], "teacher.path=x", "leave it out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["task=mrcp"], ["Unknown task preset 'mrcp'", "'mrpc'", "toy_pair"]),
        (["agent=ppo"], ["'sb3/ppo'", "rule/all"]),
        (["agent=sb3/pppo"], ["'sb3/ppo'"]),
        (["env.budgt=3"], ["'env.budget'", "env.batch_size"]),
        (["budget=3"], ["Did you mean 'env.budget'", "total_timesteps"]),
        (["agent.options.learning_rat=1"], ["'learning_rate'", "gae_lambda"]),
        (["agent=sb3/ppo", "agent.options.nsteps=1"], ["'n_steps'"]),
        (["agent=sb3/dqn", "env.action_view=box"], ["dqn", "discrete"]),
        (["agent=sb3/sac", "env.action_view=native"], ["sac", "box"]),
        (
            ["agent=sb3/sac", "total_timesteps=100"],
            ["total_timesteps=100 ends", "agent.options.learning_starts"],
        ),
        (["agent=knowledge_selector", "total_timesteps=640"], ["640 random steps", "agent.options.warmup_steps below"]),
        (["env.terms=[hard_label,soft_labels]"], ["soft_label", "hidden_states"]),
        (["env.terms=[{name: soft_label, temprature: 2}]"], ["'soft_label': 'temprature'", "'temperature'"]),
        (["env.terms=[soft_label,{name: hard_label, as: soft_label}]"], ["named twice", "soft_label_2"]),
        (["student.dropout=0.1"], ["student.dropout=0.1", "vectorization=processes"]),
        (["student=first2", "student.dropout=0.1"], ["student.dropout=0.1", "vectorization=processes"]),
        (["env.features=[progres]"], ["'progress'"]),
        (["env.reward=gap"], ["gap_closed"]),
        (["env.action_view=boxes"], ["'box'"]),
        (["env.batch_size=0"], ["batch_size=0", "at least 1"]),
        (["env.budget=-4"], ["budget=-4"]),
        (["env.budget=abc"], ["budget='abc'"]),
        (["env.optimizer=3"], ["env.optimizer.learning_rate"]),
        (["total_timesteps=0"], ["total_timesteps=0", "at least 1"]),
        (["num_envs=1.5"], ["num_envs=1.5"]),
        (["resume=perhaps"], ["true or false"]),
        (["evaluation.rules=[alll]"], ["'all'", "greedy"]),
        (["evaluation.rules=[random_gate]", "env.gate=false"], ["gate"]),
        (["evaluation.rules=[all,{name: greedy, label: all}]"], ["label='all'", "no other"]),
        (["evaluation.rules=[{name: all, label: actor_critic}]"], ["label='actor_critic'", "no other"]),
        (["evaluation.rules=[{name: fixed, weights: [0.5]}]"], ["weights=[0.5]", "by name"]),
        (["evaluation.rules=all"], ["auto or a list"]),
        (["seed=10003"], ["evaluation seeds"]),
        (["device=cuda:7"], ["device='cuda:7'", "device=cpu"]),
        (["vectorization=stack"], ["'stacked'"]),
        (["task=rte"], ["teacher.name_or_path", "teacher.path"]),
        (["task=custom", "teacher.path=x"], ["data_dir"]),
        (["task=mrpc", "teacher.path=x", "task.data_dir=nowhere"], ["nowhere"]),
        (["teacher.path=a", "teacher.name_or_path=b"], ["teacher.path", "teacher.name_or_path"]),
        (["teacher=/some/folder"], ["teacher.path=..."]),
        (["name=a/b"], ["plain folder name"]),
        (["seed=1,2"], ["python train_agent.py -m"]),
        (["--fast"], ["--fast", "--help"]),
        (["verbose"], ["key=value"]),
        (["+new=1"], ["agent.options"]),
    ],
)
def test_mistakes_are_told_in_one_line(
    overrides: list[str], expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(capsys, ["train", *overrides, f"runs_dir={tmp_path}"], *expected)
    assert not list(tmp_path.iterdir())


def test_unknown_commands_and_teacher_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, ["trian"], "'train'", "evaluate")
    fails(capsys, ["teacher", "task=mrpc"], "teacher.name_or_path")
    fails(capsys, ["teacher", "task=mrpc", "teacher.name_or_path=x", "teacher.epochs=0"], "epochs=0")
    fails(capsys, ["teacher", "agent=reinforce"], "Unknown option 'agent'")
    made = ["teacher", "teacher.name_or_path=x"]
    for unread in ("teacher.path=a", "teacher.source=online", "teacher.cache_dtype=float16", "teacher.check=warn"):
        fails(capsys, [*made, unread], unread, "leave it out")
    assert main([]) == 2


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ValueError, match="mrcp"):
        main(["train", "task=mrcp", "--debug"])


def test_another_package_called_agents_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = ModuleType("agents")
    foreign.__spec__ = type(sys.__spec__)("agents", None, origin="elsewhere/agents.py")  # type: ignore[union-attr]
    monkeypatch.setitem(sys.modules, "agents", foreign)
    fails(capsys, ["train"], "'agents'", "elsewhere/agents.py", "virtual environment")


def test_help_lists_every_preset_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(name in overview for name in ("train", "teacher", "evaluate"))
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for group, presets in groups().items():
        assert f"{group}=" in text
        assert all(preset in text for preset in presets)
    for option in ("total_timesteps=", "env.budget=80", "student.hidden_size=32", "evaluation.seeds=10"):
        assert option in text
    for option in ("cofinetuned=null", "env.weighting=batch", "env.weighs=[soft_label]", "teacher.keep=best"):
        assert option in text
    for option in ("recipe=null", "student.pooling=null", "env.epochs=null"):
        assert option in text
    assert text.count("env.batch_size=16") == 1  # said once for both environments
    assert main(["teacher", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("output=null", "members=null", "teacher.shared_width=null", "teacher.keep=best", "env."):
        assert (option in text) == (option != "env.")


def test_the_resolved_configuration_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--cfg", "job", "agent=sb3/dqn", "seed=3"]) == 0
    text = capsys.readouterr().out
    assert "action_view: discrete" in text and "seed: 3" in text and "${" not in text


def test_a_sweep_makes_a_run_for_every_value(
    base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in base if not word.startswith("agent.options")]
    command = [sys.executable, str(ROOT / "train_agent.py"), "-m", *words, f"runs_dir={tmp_path}", "agent=rule/all"]
    done = subprocess.run([*command, "seed=0,1"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    runs = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert runs == ["custom-all-seed0", "custom-all-seed1"]
    assert all((tmp_path / name / "results.json").is_file() for name in runs)
    assert "seed=1" in (tmp_path / runs[1] / "command.txt").read_text()
    fails(capsys, ["train", "-m", *words, f"runs_dir={tmp_path}", "agent=rule/all,rule/non"], "rule/non")


def test_a_sweeper_that_optimises_is_told_of_the_selection_split_alone(finished: Path, tmp_path: Path) -> None:
    from cli.runs.objective import gap_closed_together, objective_of

    agent = results(finished)["policies"][0]
    scores = agent["seeds"]["splits"]["selection"]
    gaps, sizes = scores["gap_closed"], scores["gap_size"]
    assert objective_of(finished) == pytest.approx(np.average(gaps, weights=sizes))
    assert objective_of(finished) != agent["gap_closed"]["validation"]["mean"]
    assert objective_of(tmp_path) is None
    # A student that was nearly as good as the teacher from the start has little say.
    assert gap_closed_together([0.5, -20.0], [0.6, 0.01]) == pytest.approx((0.3 - 0.2) / 0.61)
    del scores["gap_size"]  # of a former version
    (tmp_path / "results.json").write_text(json.dumps({"policies": [agent]}))
    assert objective_of(tmp_path) == pytest.approx(np.mean(gaps))
    for sizes in ([None] * len(gaps), [0.0] * len(gaps)):
        scores["gap_size"] = sizes
        (tmp_path / "results.json").write_text(json.dumps({"policies": [agent]}))
        assert objective_of(tmp_path) is None


def test_a_job_of_a_sweep_returns_what_was_reached(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hydra's sweepers that optimise, Optuna's, read what the job returns."""
    import hydra

    from cli.sweep import sweep

    returned: list[float | None] = []

    def decorate(job: Any) -> Any:
        return lambda: returned.append(job(None))

    monkeypatch.setattr(hydra, "main", lambda **_: decorate)
    monkeypatch.setattr(sys, "argv", ["kd-env"])
    words = [*base, f"runs_dir={tmp_path}", "total_timesteps=16"]
    asked = SimpleNamespace(overrides=SimpleNamespace(task=words))
    monkeypatch.setattr("hydra.core.hydra_config.HydraConfig.get", lambda: asked)
    sweep(words, "kd-env train")
    [folder] = (path for path in tmp_path.iterdir() if path.is_dir())
    scores = results(folder)["policies"][0]["seeds"]["splits"]["selection"]
    assert returned == [pytest.approx(np.average(scores["gap_closed"], weights=scores["gap_size"]))]
