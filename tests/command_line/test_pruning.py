"""Pruning: whole agents of a study stop at a pause, the others end with the bits of trainings that never paused."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cli.jobs import study
from cli.jobs.compare import find_runs
from cli.jobs.estimates import study as estimates
from cli.jobs.estimates.counts import Counts
from cli.jobs.estimates.estimate import IMPORTS, Estimate
from cli.jobs.estimates.words import study_line
from cli.jobs.kinds.paused import Paused, write_paused
from cli.jobs.studies import pruning
from cli.jobs.studies.decision import read_pruning
from cli.jobs.studies.training import Training
from cli.runs import folder as runs
from cli.runs.backends.base import Backend, Child
from cli.runs.config import to_yaml
from cli.settings.options import split_options

SEEDS = (1000000, 1000001)
VALUES = {"actor_critic": (0.0, 0.5), "slow": (0.3, 0.3), "reinforce": (0.3, 0.5)}
"""Of the trainings of each agent at their pause; the best of the first is the best of all."""
STUDY = ["pruning=median", "pruning_at=0.3"]
OPTIONS = split_options("study", STUDY)[0]


def words_of(tiny: dict[str, Any], folder: Path) -> list[str]:
    return [
        *("task=custom", f"task.data_dir={tiny['data_dir']}", f"teacher.path={tiny['teacher']}"),
        *("student=toy_small", "student.hidden_size=8", "task.feedback_rows=32", "task.selection_rows=32"),
        *("env.evaluation_rows=32", "env.batch_size=4", "env.budget=8", "num_envs=2", "total_timesteps=18"),
        *("evaluation.seeds=1", "evaluation.rules=[all]", "checkpoint_every=0", "progress=false", "pause.seeds=2"),
        *(f"cache_dir={folder}/cache", f"runs_dir={folder}"),
    ]


@pytest.fixture(scope="module")
def planned(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[Training]:
    """A study of three agents with two trainings each."""
    agents = "agents=[actor_critic,{name: actor_critic, label: slow},reinforce]"
    words = [*words_of(tiny, tmp_path_factory.mktemp("study")), agents, "trainings=2", "name=small"]
    return study.plan(*split_options("study", words))


@pytest.fixture
def trainings(planned: list[Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Training]:
    """The same in a folder of its own; ``study.study`` plans it."""
    found = [changed(each, run_folder=tmp_path / "small" / each.folder.name) for each in planned]
    monkeypatch.setattr(study, "plan", lambda options, main: found)
    return found


def changed(training: Training, **settings: Any) -> Training:
    return dataclasses.replace(training, settings=dataclasses.replace(training.settings, **settings))


def resolved(training: Training, **values: Any) -> Training:
    return changed(training, resolved={**training.settings.resolved, **values})


def begin(training: Training) -> None:
    """Leave what a run has from its first step on."""
    (training.folder / runs.LOGS).mkdir(parents=True, exist_ok=True)
    (training.folder / runs.CONFIG).write_text(to_yaml(training.settings.resolved))


class Processes:
    """In the place of those of a study: those that pause leave their value, the others nothing."""

    def __init__(self, trainings: Sequence[Training]) -> None:
        self.trainings = {each.folder.name: each for each in trainings}
        self.calls: list[list[str]] = []
        self.with_rules: list[str] = []
        self.fails: set[str] = set()

    def __call__(
        self, children: Sequence[Child], backend: Backend, *, shown: bool, end: str = "", cells: bool = False
    ) -> list[Child]:
        self.calls.append([child.name for child in children])
        self.with_rules = [child.name for child in children if "evaluation.rules=[all]" in child.words]
        for child in children:
            child.log.touch()
            if "pause.at=6" in child.words and child.name not in self.fails:
                training = self.trainings[child.name].with_values("pause", at=6)
                begin(training)
                value = VALUES[training.settings.agent.label][training.settings.resolved["seed"] // 100]
                write_paused(training.folder, Paused(6, 6, SEEDS, (value - 0.1, value + 0.1), (1.0, 1.0)))
        return [child for child in children if child.name in self.fails]


def test_whole_agents_are_pruned_and_the_decision_stays(
    trainings: list[Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, processes = tmp_path / "small", Processes(trainings)
    monkeypatch.setattr(study, "run_all", processes)
    everyone = [training.folder.name for training in trainings]
    failing = trainings[3]

    # A training that fails leaves no decision, and the others are not paused again.
    processes.fails = {failing.folder.name}
    with pytest.raises(ValueError, match="1 of 6 trainings failed"):
        study.study(STUDY, "")
    assert processes.calls == [everyone] and read_pruning(folder) is None
    processes.fails = set()
    study.study(STUDY, "")
    going = everyone[2:]  # not even the best training of the agent that is pruned
    assert processes.calls[1:] == [[failing.folder.name], going] and processes.with_rules == going[:1]
    told = capsys.readouterr().out
    assert "actor_critic (0.250 at step 6) was pruned at the pause of small at step 6: the median of the 3" in told
    decision = read_pruning(folder)
    assert decision is not None and decision.at == 6 and decision.median == pytest.approx(0.3)
    found = [(agent.agent, agent.pruned, agent.steps) for agent in decision.agents]
    assert found == [("actor_critic", True, (6, 6)), ("slow", False, (6, 6)), ("reinforce", False, (6, 6))]

    # Stopped and started again: what was decided holds, whatever the pauses say now.
    write_paused(failing.folder, Paused(6, 6, SEEDS, (-1.0, -1.0), (1.0, 1.0)))
    study.study(STUDY, "")
    assert processes.calls[3:] == [going] and read_pruning(folder) == decision
    paused = pruning.pausing(trainings, OPTIONS)
    other = changed(paused[0], agent=dataclasses.replace(paused[0].settings.agent, label="other"))
    seen = changed(paused[0], evaluation_seeds=SEEDS[:1])
    for options, those, message in (
        ([], [], r"begun with pruning=median pruning_at=0\.3: give the same"),
        (["pruning=median"], paused, r"begun with pruning=median pruning_at=0\.3: give the same"),
        (STUDY, [*paused, other], r"was pruned among .* names .*other.*: name the same"),
        (STUDY, [seen, *paused], "pruned by students of the seeds 1000000 to 1000001, and evaluation"),
    ):
        with pytest.raises(ValueError, match=message):
            pruning.decided(folder, split_options("study", options)[0], those)
    for training in trainings:
        (training.folder / runs.RESULTS).write_text("{}")
    assert [path.name for path in find_runs([str(folder / "custom-*")])] == sorted(going)
    (folder / "pruning" / "decision.json").write_text("{}")
    with pytest.raises(ValueError, match=r"decision\.json is damaged"):
        study.study(STUDY, "")


def test_what_cannot_be_pruned_is_refused_before_any_work(trainings: list[Training], tmp_path: Path) -> None:
    first, c = trainings[0], trainings[0].settings.resolved
    untrained = resolved(first, control="untrained")
    searched = changed(first, agent=dataclasses.replace(first.settings.agent, name="searched", label="searched"))
    paused = pruning.pausing([untrained, searched, *trainings], OPTIONS)
    assert [each.folder for each in paused] == [each.folder for each in trainings]
    assert {each.settings.resolved["pause"]["at"] for each in paused} == {6}  # 0.3 of 18, and not before
    assert pruning.pausing(trainings, {**OPTIONS, "pruning": "none"}) == []
    joint = resolved(first, env={**c["env"], "protocol": "joint"})
    shared = resolved(first, pause={**c["pause"], "first_seed": 10000})
    for those, share, message in (
        (
            [*trainings[:2], *trainings[4:]],
            0.3,
            r"names 2 of them \(actor_critic, reinforce\): name at least 3, or leave",
        ),
        ([untrained, searched], 0.3, r"names 0 of them \(none\)"),
        ([joint, *trainings], 0.3, r"env\.protocol=joint there are no checkpoints: leave pruning out, or set"),
        ([shared, *trainings], 0.3, r"takes seeds of the evaluation \(10000 to 10000\); choose another pause"),
        (trainings, 0.99, r"pruning_at=0\.99 of total_timesteps=18 is no step before the last; lower it"),
    ):
        with pytest.raises(ValueError, match=message):
            pruning.pausing(those, {**OPTIONS, "pruning_at": share})
    for words, message in (
        (["pruning=mean"], "'mean'.*median"),
        (["pruning_at=1"], "pruning_at=1 must be a share of the steps"),
        (["pause.at=6"], r"'pause\.at=6' has no place in a study: pruning=median"),
    ):
        with pytest.raises(ValueError, match=message):
            study.study(words, "")
    assert not list(tmp_path.iterdir())
    # A run that was begun without the pause, and is behind it: its agent would be compared later than the others.
    begin(first)
    (first.folder / runs.CHECKPOINT / "12").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"has made 12 steps without the pause of pruning=median at step 6"):
        study.study(STUDY, "")


def test_the_estimate_is_that_of_a_study_that_prunes_none(
    trainings: list[Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counts(0, 1, 1, 1, 1, (), 1)
    monkeypatch.setattr(estimates, "_built", lambda problems, env, job: (None, 4.0))
    monkeypatch.setattr(
        estimates,
        "of_run",
        lambda job, problem, start: Estimate(
            counts, *((3.0, 1.0) if job.settings.resolved["pause"]["at"] else (10.0, 2.0)), 1, 7
        ),
    )
    every = [training.settings for training in trainings]
    paused = [training.settings for training in pruning.pausing(trainings, OPTIONS)]
    found = estimates.of_study(every, 1, paused)
    start = IMPORTS + 4.0
    assert found.seconds == pytest.approx(6 * (3 + 1 + start) + 6 * (10 - 3 + 2 + start))
    assert study_line(found).startswith("at most about 3 min 20 s (an upper bound")
    assert ": 6 trainings, 1 at a time, each with its evaluation 12 s" in study_line(found)
    assert estimates.of_study(every, 1).seconds == pytest.approx(6 * (12 + start))
