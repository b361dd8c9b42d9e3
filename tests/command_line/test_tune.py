"""Searches of agent options: what is proposed, pruned and kept, by the selection split alone."""

from __future__ import annotations

import importlib.util
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from cli.jobs import study
from cli.jobs.kinds.paused import Paused, write_paused
from cli.jobs.tuning import command as tune
from cli.jobs.tuning.trials import FILE, plain, read_trials
from cli.runs.backends.base import Backend, Child
from cli.settings.options import split_options, split_place

SEARCH = "search={learning_rate: {low: 1e-4, high: 1e-1, log: true}, value_learning_rate: [0.001, 0.01]}"
AS_IT_IS = 0.05


class Processes:
    """Stands in for the processes: a low learning rate is worth more, and all are worth more at the second stage."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.fails: set[str] = set()

    def __call__(self, children: Sequence[Child], backend: Backend, *, shown: bool, end: str) -> list[Child]:
        self.calls.append([child.name for child in children])
        for child in children:
            child.log.touch()
            given = dict(word.partition("=")[::2] for word in child.words if "=" in word)
            at, seed = int(given["pause.at"]), int(given["seed"])
            worth = -float(given.get("agent.options.learning_rate", AS_IT_IS)) + at / 1000 + seed / 1e6
            if child.name not in self.fails:
                seeds = (1000000, 1000001)
                write_paused(child.log.with_suffix(""), Paused(at, at, seeds, (worth - 0.1, worth + 0.1), (1.0, 1.0)))
        return [child for child in children if child.name in self.fails]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    return [
        *("task=toy", "env.budget=8", "num_envs=2", "total_timesteps=40", "pause.seeds=2", "evaluation.seeds=1"),
        *("progress=false", f"cache_dir={tmp_path}/cache", f"runs_dir={tmp_path}", "name=found", SEARCH),
        *("trials=8", "round=4", "trainings=2", "jobs=2", "agent.options={ent_coef: 0.02}", "agent.action_view=box"),
    ]


def test_a_search_prunes_goes_on_and_keeps_what_it_knows(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    processes = Processes()
    monkeypatch.setattr(tune, "run_all", processes)
    folder = tune.tune(words, "kd-env tune ...")
    trials = json.loads((folder / FILE).read_text())["trials"]
    # Two stages of two rounds of four trials of two trainings; five complete trials are needed before one is pruned.
    assert [len(call) for call in processes.calls] == [8, 8, 8, 8]
    assert processes.calls[0][:2] == ["trial0-seed0", "trial0-seed100"]
    assert [trial["state"] for trial in trials] == ["complete"] * 8
    first = trials[0]
    assert first["options"] == {} and all(trial["options"] for trial in trials[1:])
    early = 0.02 + 5e-5 - AS_IT_IS
    assert first["values"] == pytest.approx([early, early + 0.019])
    best = max(trials, key=lambda trial: trial["values"][-1])
    said = capsys.readouterr().out
    assert f"The best is number {trials.index(best)}, {best['options']}" in said
    assert f"({first['values'][-1]:.3f} as it is)" in said
    # What it says is a study that can be planned: the agent as it is beside what was found, with other trainings.
    plan = study.plan(*split_options("study", shlex.split(said.split("kd-env study ")[1].splitlines()[0])))
    options = {training.settings.agent.label: training.settings.agent.options for training in plan}
    assert options == {"as_it_is": {"ent_coef": 0.02}, "tuned": {"ent_coef": 0.02, **best["options"]}}
    assert {training.settings.env.action_view for training in plan} == {"box"}
    assert len(plan) == 10 and {training.settings.resolved["seed"] for training in plan} == {200, 300, 400, 500, 600}
    assert all(training.settings.env.budget == 8 and len(training.settings.evaluation_seeds) == 30 for training in plan)

    more = [word for word in words if word != "trials=8"]
    tune.tune([*more, "trials=14"], "")
    after = json.loads((folder / FILE).read_text())["trials"]
    assert after[:8] == trials and len(after) == 14
    pruned = [trial for trial in after if trial["state"] == "pruned"]
    assert pruned and all(len(trial["values"]) == 1 for trial in pruned)
    rates = [trial["options"]["learning_rate"] for trial in after[1:]]
    assert sum(rate < 0.01 for rate in rates[7:]) / 6 > sum(rate < 0.01 for rate in rates[:7]) / 7

    # A search that is stopped in the middle of a stage judges again only what is not known.
    values = json.loads((folder / FILE).read_text())
    values["trials"][13] |= {"state": "open", "values": values["trials"][13]["values"][:1]}
    (folder / FILE).write_text(json.dumps(values))
    calls = len(processes.calls)
    tune.tune([*more, "trials=14"], "")
    assert json.loads((folder / FILE).read_text())["trials"][13]["state"] == "complete"
    assert len(processes.calls) == calls + 1
    with pytest.raises(ValueError, match=r"holds a search of other stages"):
        tune.tune([*more, "stages=[0.2,1.0]"], "")
    del values["search"]["value"]
    (folder / FILE).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"of a former version, which compared plain means"):
        tune.tune([*more, "trials=14"], "")


def test_a_search_that_finds_nothing_better_says_so(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tune, "run_all", Processes())
    monkeypatch.setitem(globals(), "AS_IT_IS", 1e-5)
    folder = tune.tune(words, "")
    best = json.loads((folder / FILE).read_text())["trials"][0]["values"][-1]
    assert f"None is better than the agent as it is, which closes {best:.3f}" in capsys.readouterr().out


def test_trials_that_fail_are_told(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes()
    processes.fails = {"trial1-seed100"}
    monkeypatch.setattr(tune, "run_all", processes)
    folder = tune.tune([word for word in words if word != "trials=8"] + ["trials=2"], "")
    assert [trial["state"] for trial in json.loads((folder / FILE).read_text())["trials"]] == ["complete", "failed"]
    processes.fails = {f"trial{number}-seed0" for number in range(2, 6)}
    with pytest.raises(ValueError, match=r"Every trial of a round failed.*trial2-seed0\.log"):
        tune.tune(words, "")


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("search={}", "search is empty"),
        ("search={learning_rat: [0.1, 0.2]}", "Did you mean 'learning_rate'"),
        ("search={learning_rate: {low: 1, high: 0}}", "a higher one"),
        ("search={learning_rate: {low: 0, high: 1, log: true}}", "above 0 with log"),
        ("search={learning_rate: 0.1}", "a list of at least two plain values"),
        ("stages=[1.0,0.5]", "shares that rise"),
        ("seed=3", "first_seed=..."),
        ("agent=rule/all", "."),
        ("agent.options.learning_rate=0.1", "that is searched"),
        ("gpus=1", "gpus=1 is for backend=ray"),
    ],
)
def test_mistakes_are_found_before_any_work(words: list[str], extra: str, expected: str, tmp_path: Path) -> None:
    kept = [word for word in words if word.split("=")[0] != extra.split("=")[0]]
    with pytest.raises(ValueError, match=expected):
        tune.tune([*kept, extra], "")
    assert not list(tmp_path.iterdir())


def test_an_absent_package_is_named_with_its_extra(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "optuna" else found(name, *rest)
    )
    with pytest.raises(ValueError, match=r'kd-env tune needs .*optuna.* pip install "kd-env\[tune\]"'):
        tune.tune(words, "")


def test_a_damaged_file_of_trials_is_refused(tmp_path: Path, words: list[str]) -> None:
    options, others = split_options("tune", words)
    place, main = split_place(others)
    search = tune.plan(options, place, main).search
    (tmp_path / FILE).write_text(json.dumps({"search": plain(search), "trials": [{"options": {}}]}))
    with pytest.raises(ValueError, match="'values' is missing"):
        read_trials(tmp_path, search)
