"""Loggers beside TensorBoard: what they are given, where a training goes on, and what is refused.

The three services are stand-ins that keep what they are told: their packages are large, and none of them is ours.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cli.main import run
from cli.runs.loggers import catalog
from cli.runs.loggers.base import Shown
from cli.runs.loggers.catalog import LOGGERS, Loggers, check_loggers

Calls = list[tuple[Any, ...]]


class WandbRun:
    def __init__(self, calls: Calls, given: dict[str, Any]) -> None:
        self.id, self.calls = given["id"] or "drawn", calls
        calls.append(("init", given["project"], given["name"], given["id"], given["resume"], given["config"]["seed"]))

    def define_metric(self, name: str, step_metric: str) -> None:
        self.calls.append(("define", name, step_metric))

    def log(self, values: dict[str, Any]) -> None:
        self.calls.append(("log", values))

    def finish(self) -> None:
        self.calls.append(("finish",))


def wandb(calls: Calls) -> dict[str, ModuleType]:
    module = ModuleType("wandb")
    module.init = lambda **given: WandbRun(calls, given)  # type: ignore[attr-defined]
    module.Image = lambda path: Path(path).name  # type: ignore[attr-defined]
    return {"wandb": module}


def trackio(calls: Calls) -> dict[str, ModuleType]:
    module = ModuleType("trackio")
    module.init = lambda project, name, config, resume: calls.append(  # type: ignore[attr-defined]
        ("init", project, name, resume, config["seed"])
    )
    module.log = lambda values, step: calls.append(("log", values, step))  # type: ignore[attr-defined]
    module.Image = lambda path: Path(path).name  # type: ignore[attr-defined]
    module.finish = lambda: calls.append(("finish",))  # type: ignore[attr-defined]
    return {"trackio": module}


def mlflow(calls: Calls) -> dict[str, ModuleType]:
    class MlflowClient:
        def get_experiment_by_name(self, name: str) -> Any:
            return SimpleNamespace(experiment_id="7") if name == "there" else None

        def create_experiment(self, name: str) -> str:
            return f"new {name}"

        def create_run(self, experiment: str, run_name: str) -> Any:
            calls.append(("create", experiment, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="drawn"))

        def update_run(self, number: str, status: str) -> None:
            calls.append(("update", number, status))

        def log_text(self, number: str, text: str, name: str) -> None:
            calls.append(("text", number, name, '"seed": 3' in text))

        def log_batch(self, number: str, metrics: list[tuple[str, float, int, int]]) -> None:
            calls.append(
                ("log", number, {name: value for name, value, _, _ in metrics}, {step for *_, step in metrics})
            )

        def log_artifact(self, number: str, path: str, place: str) -> None:
            calls.append(("artifact", number, Path(path).name, place))

        def set_terminated(self, number: str) -> None:
            calls.append(("finish", number))

    module, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    module.MlflowClient = MlflowClient  # type: ignore[attr-defined]
    entities.Metric = lambda *values: values  # type: ignore[attr-defined]
    return {"mlflow": module, "mlflow.entities": entities}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Calls]:
    found: dict[str, Calls] = {"wandb": [], "trackio": [], "mlflow": []}
    for make in (wandb, trackio, mlflow):
        for name, module in make(found[make.__name__]).items():
            monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(catalog, "find_spec", lambda name: object())
    return found


@pytest.fixture
def base(tiny: dict[str, Any], tmp_path: Path) -> list[str]:
    """Overrides of a main job that takes a second: 4 rollouts of 16 steps."""
    return [
        *("task=custom", f"task.data_dir={tiny['data_dir']}", f"teacher.path={tiny['teacher']}"),
        *("student=toy_small", "student.hidden_size=8", "task.feedback_rows=32", "task.selection_rows=32"),
        *("env.evaluation_rows=32", "env.batch_size=4", "env.budget=8", "env.optimizer.learning_rate=0.01"),
        *("num_envs=4", "total_timesteps=64", "agent.options.n_steps=4"),
        *("evaluation.seeds=2", "evaluation.rules=[all]"),
        *(f"cache_dir={tmp_path / 'cache'}", f"runs_dir={tmp_path}", "progress=false"),
    ]


def show(folder: Path, done: int, judged: bool, picture: Path) -> None:
    loggers = Loggers(["wandb", "trackio", "mlflow"], Shown(folder, "mine", "there", {"seed": 3}, done, judged))
    loggers.scalars({"eval/dev/accuracy/k=2": 0.5}, 8)
    loggers.pictures({"eval/weights": picture}, 8)
    loggers.close()


def test_a_training_that_goes_on_and_its_report_come_to_the_same_run(tmp_path: Path, calls: dict[str, Calls]) -> None:
    picture = tmp_path / "weights.png"
    show(tmp_path / "logs", 0, False, picture)
    show(tmp_path / "logs", 8, True, picture)
    name = "eval/dev/accuracy/k=2"
    shown = [
        ("log", {name: 0.5, "timesteps": 8}),
        ("log", {"eval/weights": "weights.png", "timesteps": 8}),
        ("finish",),
    ]
    begun = ("define", "*", "timesteps")
    assert calls["wandb"] == [
        *(("init", "there", "mine", None, None, 3), begun, *shown),
        *(("init", "there", "mine", "drawn", "allow", 3), begun, *shown),
    ]
    shown = [("log", {name: 0.5}, 8), ("log", {"eval/weights": "weights.png"}, 8), ("finish",)]
    assert calls["trackio"] == [
        ("init", "there", "mine", "never", 3),
        *shown,
        ("init", "there", "mine", "must", 3),
        *shown,
    ]
    shown = [
        ("log", "drawn", {"eval/dev/accuracy/k_2": 0.5}, {8}),
        ("artifact", "drawn", "weights.png", "pictures/8/eval"),
        ("finish", "drawn"),
    ]
    begun = (("create", "7", "mine"), ("text", "drawn", "config.json", True))
    assert calls["mlflow"] == [*begun, *shown, ("update", "drawn", "RUNNING"), *shown]


def test_one_that_cannot_be_opened_closes_those_before_it(
    tmp_path: Path, calls: dict[str, Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(shown: Shown) -> Any:
        raise OSError("no such server")

    monkeypatch.setitem(LOGGERS._items, "broken", broken)
    with pytest.raises(OSError, match="no such server"):
        Loggers(["trackio", "broken"], Shown(tmp_path, "mine", "there", {"seed": 3}))
    assert calls["trackio"][-1] == ("finish",)


def test_the_main_job_shows_a_run_where_it_is_told_to(base: list[str], tmp_path: Path, calls: dict[str, Calls]) -> None:
    words = [*base, "name=shown", "logger=[mlflow,trackio]", "logger_project=there"]
    assert run("train", words, "kd-env train") == 0
    steps = [step for _, _, step in (call for call in calls["trackio"] if call[0] == "log")]
    assert steps == [16, 32, 48, 64, 64, 64] and calls["trackio"][0][:3] == ("init", "there", "shown")
    groups = {name.split("/")[0] for call in calls["trackio"] if call[0] == "log" for name in call[1]}
    assert groups == {"train", "policy", "student", "eval"}
    assert [call[0] for call in calls["mlflow"]].count("create") == 1
    assert ("artifact", "drawn", "weights.png", "pictures/64/eval") in calls["mlflow"]
    assert not list((tmp_path / "shown" / "logs").glob("events.*"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("tensorboard", "'tensorboard' must be a list of mlflow, tensorboard, trackio, wandb"),
        (["wandb2"], r"Unknown logger 'wandb2'. Did you mean 'wandb'\? Valid: mlflow, tensorboard, trackio, wandb"),
        (["tensorboard", "tensorboard"], "each name once"),
        (["wandb"], r"logger=wandb needs a package that is absent: pip install \"kd-env\[wandb\]\""),
    ],
)
def test_what_cannot_be_shown_is_refused_before_any_work(
    given: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        check_loggers("logger", given)
