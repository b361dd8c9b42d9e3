"""Studies: trainings as processes, resumed, compared, and told about where they fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cli.errors import guarded
from cli.jobs import study
from cli.jobs.compare import agent_labels
from cli.runs import folder as runs
from cli.runs.backends.base import Child
from cli.runs.backends.local import Local
from cli.runs.config import to_yaml
from cli.runs.pool import run_all
from cli.settings.options import split_options
from tests.here import Here


@pytest.fixture
def words(tiny: dict[str, Any], tmp_path: Path) -> list[str]:
    """A study whose trainings take a second each, once their process has started."""
    return [
        "task=custom",
        f"task.data_dir={tiny['data_dir']}",
        f"teacher.path={tiny['teacher']}",
        *("student=toy_small", "student.hidden_size=8", "task.feedback_rows=32", "task.selection_rows=32"),
        *("env.evaluation_rows=32", "env.batch_size=4", "env.budget=8", "num_envs=4", "total_timesteps=32"),
        *("evaluation.seeds=2", "evaluation.rules=[all,soft_label_only]"),
        *("agents=[actor_critic,reinforce]", "trainings=2", "jobs=2", "checkpoint_every=16"),
        *(f"cache_dir={tmp_path}/cache", f"runs_dir={tmp_path}", "name=small"),
    ]


def planned(words: list[str]) -> list[study.Training]:
    options, main = split_options("study", words)
    return study.plan(options, main)


def test_a_study_runs_resumes_and_tells_what_failed(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first training is a process; the others are in this one, where they take a fifth of the time."""
    monkeypatch.setattr(study, "opened", lambda *_: Here(started=1))
    broken = planned(words)[3]
    (broken.folder / "policy").mkdir(parents=True)
    (broken.folder / "policy" / "agent.json").write_text("{}")
    (broken.folder / runs.CONFIG).write_text(to_yaml(broken.settings.resolved))
    with pytest.raises(ValueError, match=r"1 of 4 trainings failed.*custom-reinforce-seed100\.log \(.*has format None"):
        study.study(words, "kd-env study ...")
    folder = tmp_path / "small"
    done = [f"custom-{name}" for name in ("actor_critic-seed0", "actor_critic-seed100", "reinforce-seed0")]
    assert broken.folder.parent == folder and not (broken.folder / "results.json").exists()
    data = json.loads((folder / "comparison.json").read_text())
    assert [(entry["policy"], entry["units"]) for entry in data["entries"]] == [
        *(("actor_critic", 2), ("reinforce", 1), ("all", 2), ("soft_label_only", 2))
    ]
    assert (folder / "command.txt").read_text() == "kd-env study ...\n"
    judged = [len(json.loads((folder / name / "results.json").read_text())["policies"]) for name in done]
    assert judged == [3, 1, 1]  # rules are judged once
    assert json.loads((folder / done[0] / "versions.json").read_text())["threads"] == 1
    assert "trainings 4/4" in capfd.readouterr().err
    page = (folder / "report.html").read_text()
    assert "custom-reinforce-seed100 has no results.json and is left out" in page
    assert (folder / done[0] / "report.html").is_file() and (folder / done[0] / "policies.png").is_file()

    before = (folder / done[0] / "results.json").stat().st_mtime_ns
    (folder / done[2] / "results.json").unlink()  # its training is finished, its evaluation is not
    monkeypatch.setattr(study, "opened", lambda *_: Here())
    assert study.study([*(word for word in words if word != "trainings=2"), "trainings=1"], "again") == folder
    assert (folder / done[0] / "results.json").stat().st_mtime_ns == before
    assert "is trained already" in (folder / f"{done[2]}.log").read_text()
    data = json.loads((folder / "comparison.json").read_text())
    assert [entry["runs"] for entry in data["entries"][:2]] == [[str(folder / done[0])], [str(folder / done[2])]]
    with pytest.raises(ValueError, match=r"started with other values of env\.budget"):
        study.study([*(word for word in words if "budget" not in word), "env.budget=6"], "")


def test_every_training_has_seeds_of_its_own(words: list[str]) -> None:
    found = planned([*words, "controls=[none,untrained]"])
    assert [t.settings.resolved["seed"] for t in found] == [0, 100] * 4
    assert [t.settings.resolved["control"] for t in found] == ["none", "none", "untrained", "untrained"] * 2
    assert len({t.folder for t in found}) == 8
    assert found[0].settings.resolved["evaluation"]["rules"] == ["all", "soft_label_only"]
    assert all(t.settings.resolved["evaluation"]["rules"] == [] for t in found[1:])
    for training in found:  # the process reads what was checked
        from cli.settings.compose import compose
        from cli.settings.read import read_settings

        assert read_settings(compose("config", training.overrides)).resolved == training.settings.resolved
    many = planned([*(w for w in words if w != "num_envs=4"), "num_envs=150", "first_seed=7"])
    assert [t.settings.resolved["seed"] for t in many[:2]] == [7, 207]


def test_two_presets_of_one_agent_are_two_runs() -> None:
    found = planned(["experiment=expert_teachers", "agents=[row_actor_critic,actor_critic]", "trainings=1"])
    assert [t.folder.name for t in found] == [
        f"expert_teachers-{agent}-seed0" for agent in ("row_actor_critic", "actor_critic")
    ]
    assert [t.settings.agent.name for t in found] == ["actor_critic"] * 2
    assert [t.settings.env.weighting for t in found] == ["sample", "batch"]
    assert agent_labels([t.settings.resolved for t in found]) == ["row_actor_critic", "actor_critic"]


def test_finished_means_judged_as_asked_for(words: list[str]) -> None:
    first, second, *_ = planned(words)
    for training in (first, second):
        assert not training.finished()
        training.folder.mkdir(parents=True)
        (training.folder / "results.json").touch()
        (training.folder / runs.CONFIG).write_text(to_yaml(training.settings.resolved))
        assert training.finished()
    more = planned([*(w for w in words if w != "evaluation.seeds=2"), "evaluation.seeds=3"])
    assert not more[0].finished() and not more[1].finished()
    fewer = planned([*(w for w in words if "rules" not in w), "evaluation.rules=[all]"])
    assert not fewer[0].finished() and fewer[1].finished()
    shutil.copy(first.folder / runs.CONFIG, second.folder / runs.CONFIG)
    with pytest.raises(ValueError, match="other values of name, seed"):
        second.finished()


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("agents=[actor_critic,ppo]", "Unknown agent preset 'ppo'. Did you mean 'sb3/ppo'"),
        ("agents=[rule/all]", "'rule/all', which cannot be trained"),
        ("agents=[reinforce,reinforce]", "names something twice"),
        ("agents=[]", r"agents=\[\] must be a name"),
        ("controls=[shuffled]", "Unknown control 'shuffled'. Did you mean 'shuffled_reward'"),
        ("controls=[none,teacher_is_student]", "env.terms is .* control=teacher_is_student changes the problem"),
        ("trainings=0", "trainings=0 must be a whole number of at least 1"),
        ("trainings=101", "seed=10000 with num_envs=4 trains on evaluation seeds"),
        ("first_seed=9998", "evaluation seeds"),
        ("jobs=two", "jobs='two' must be a whole number"),
        ("job=2", "Unknown option 'job'. Did you mean 'jobs'"),
        ("training=2", "'trainings'"),
        ("env.budgt=3", "Did you mean 'env.budget'"),
        ("agent=reinforce", r"'agent=reinforce' has no place in a study: agents=\[...\]"),
        ("seed=3", "first_seed=..."),
        ("resume=true", "always goes on"),
        ("name=a/b", "plain folder name"),
        ("env.batch_size=0", "batch_size=0"),
        ("agent.options.n_stepz=1", "'n_steps'"),
        ("trainings=[", "Cannot read 'trainings=\\['"),
    ],
)
def test_mistakes_are_found_before_any_work(
    words: list[str], extra: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "run_all", lambda *_, **__: pytest.fail("a training was started"))
    kept = [word for word in words if word.split("=")[0] != extra.split("=")[0]]
    with pytest.raises(ValueError, match=expected):
        study.study([*kept, extra], "")
    assert not list(tmp_path.iterdir())


def test_controls_act_as_what_they_are_set_against(words: list[str]) -> None:
    """Samples of a control beside the likeliest actions of the trained agent would be two differences."""
    sampled = [*words, "evaluation.deterministic=false"]
    with pytest.raises(ValueError, match=r"evaluation\.deterministic=false.*Add none to controls"):
        planned([*sampled, "controls=[untrained]"])
    alike = planned([*sampled, "controls=[none,untrained]"])
    assert {training.settings.resolved["evaluation"]["deterministic"] for training in alike} == {False}
    likeliest = planned([*words, "controls=[untrained]"])
    assert {training.settings.resolved["evaluation"]["deterministic"] for training in likeliest} == {True}


def test_a_failure_stops_no_other_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def child(name: str, code: str) -> Child:
        return Child(name, ("timeit", "-n1", "-r1", code), tmp_path / f"{name}.log")

    bad = child("bad", "raise SystemExit(3)")
    good = [child(f"good{i}", f"print('here {i}')") for i in range(2)]
    assert run_all([bad, *good], Local(1), shown=True) == [bad]
    assert "here 1" in good[1].log.read_text()
    told = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[1] for line in told] == ["bad FAILED", "good0 finished", "good1 finished"]
    assert run_all([], Local(2), shown=True) == []


@pytest.mark.parametrize(("stop", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_a_study_stops_its_processes(
    tmp_path: Path, stop: signal.Signals, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(100)"
    children = [Child(str(i), ("timeit", "-n1", "-r1", code), tmp_path / f"{i}.log") for i in range(3)]

    def interrupt() -> None:
        # A whole line: without its end, a traceback may follow on it.
        while not all(child.log.exists() and "\n" in child.log.read_text() for child in children[:2]):
            time.sleep(0.05)
        os.kill(os.getpid(), stop)

    watcher = threading.Thread(target=interrupt)
    # Tests that a script runs in its background ignore SIGINT, and would wait for the whole sleep.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        watcher.start()
        assert guarded(lambda: run_all(children, Local(2), shown=False), "kd-env study", debug=False) == status
        watcher.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert "kd-env study: stopped" in capsys.readouterr().err
    for child in children[:2]:
        with pytest.raises(ProcessLookupError):
            os.kill(int(child.log.read_text().split()[0]), 0)
    assert not children[2].log.exists()


def test_options_of_a_study_are_documented() -> None:
    from cli.settings.presets import option_comments

    for job in ("study", "compare", "tune"):
        options, _ = split_options(job, [])
        documented = {key: comment for key, _, comment in option_comments(job)}
        assert set(documented) == set(options)
        assert all(comment for key, comment in documented.items() if key != "runs_dir")
