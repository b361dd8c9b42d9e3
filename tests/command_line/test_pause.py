"""A training that pauses is judged on the selection split alone, and ends with the bits of one that never paused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from cli.jobs import train as main_job
from cli.jobs.estimates.run import count
from cli.jobs.kinds.catalog import job_of
from cli.jobs.kinds.paused import PAUSE, RESULT, Paused, read_paused, write_paused
from cli.runs import folder as runs
from cli.settings.compose import compose
from cli.settings.read import check_pause, read_settings
from kd_env.evaluation.judging import tables
from kd_env.evaluation.judging.results import SELECTION
from kd_files.manifest import digests
from kd_files.writing import new_folder, write_json

SEEDS = (1000000, 1000001)


@pytest.fixture
def words(tiny: dict[str, Any], tmp_path: Path) -> list[str]:
    return [
        *("task=custom", f"task.data_dir={tiny['data_dir']}", f"teacher.path={tiny['teacher']}"),
        *("student=toy_small", "student.hidden_size=8", "task.feedback_rows=32", "task.selection_rows=32"),
        *("env.evaluation_rows=32", "env.batch_size=4", "env.budget=8", "num_envs=2", "total_timesteps=18"),
        *("evaluation.seeds=1", "evaluation.rules=[all]", "checkpoint_every=0", "progress=false", "pause.seeds=2"),
        *(f"cache_dir={tmp_path}/cache", f"runs_dir={tmp_path}", "agent=actor_critic", "agent.options.n_steps=3"),
    ]


def test_a_training_that_paused_ends_with_the_bits_of_one_that_never_did(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rollouts of 3 steps end in the middle of episodes of 4."""
    composed = compose("config", [*words, "pause.at=5"])
    monkeypatch.setattr(main_job, "compose", lambda job, words: {**composed, "resume": "resume=true" in words})
    with monkeypatch.context() as patch:
        patch.setattr(tables, "load_dev", lambda *_: pytest.fail("dev rows were read for the pause"))
        folder = main_job.train([], "")
    assert not (folder / runs.POLICY).exists() and not (folder / runs.RESULTS).exists()
    paused = read_paused(folder, 5, SEEDS)
    assert paused is not None and paused.steps == 6 and len(paused.gap_closed) == len(paused.gap_size) == 2
    assert min(paused.gap_size) > 0 and min(paused.gap_closed) < paused.value < max(paused.gap_closed)
    assert read_paused(folder, 5, (1, 2)) is None and read_paused(folder, 4, SEEDS) is None

    job = job_of(read_settings(composed))
    problem = job.load_problem()
    counts = count(job, problem)
    assert (counts.steps, counts.policies, counts.seeds) == (5, ("actor_critic",), 2)
    settings = read_settings({**composed, "pause": {**composed["pause"], "at": None}})
    agents = []
    for place in (tmp_path / "never", folder):
        job.settings = dataclasses.replace(settings, run_folder=place)
        learned = main_job.learn(job, problem)
        assert learned is not None and [point["timesteps"] for point in learned[1]] == [6, 12, 18]
        agents.append(digests(place / runs.POLICY))
    assert agents[0] == agents[1] and "networks.safetensors" in agents[0]
    with pytest.raises(ValueError, match=r"pause\.at=5, but the training of .* has come to its end at step 18"):
        main_job.train(["resume=true"], "")


def test_what_a_former_version_judged_is_judged_again(tmp_path: Path) -> None:
    paused = Paused(5, 6, SEEDS, (0.5, -20.0), (0.6, 0.01))
    write_paused(tmp_path, paused)
    assert read_paused(tmp_path, 5, SEEDS) == paused and paused.value == pytest.approx(0.1 / 0.61)
    former = {key: value for key, value in dataclasses.asdict(paused).items() if key != "gap_size"}
    with new_folder(tmp_path / PAUSE) as folder:
        write_json(folder / RESULT, former)
    assert read_paused(tmp_path, 5, SEEDS) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent": {"name": "all"}}, r"pause\.at=5: agent 'all' with control=none is not trained; leave pause\.at out"),
        ({"control": "untrained"}, "'actor_critic' with control=untrained is not trained"),
        ({"total_timesteps": 5}, r"pause\.at=5 is not before the end of the training, total_timesteps=5; lower it"),
        ({"num_envs": 8}, r"takes seeds of the training \(0 to 7\); choose another pause\.first_seed"),
        ({"seed": 20}, r"pause\.first_seed=6 with pause\.seeds=3 takes seeds of the evaluation \(8 to 9\)"),
    ],
)
def test_a_pause_without_meaning_is_refused(changes: dict[str, Any], message: str) -> None:
    pause = {"at": 5, "seeds": 3, "first_seed": 6}
    c = {"agent": {"name": "actor_critic"}, "control": "none", "total_timesteps": 6, "seed": 0, "num_envs": 2}
    check_pause({**c, "pause": pause}, (20, 21))
    check_pause({**c, **changes, "pause": {**pause, "at": None}}, (8, 9))
    with pytest.raises(ValueError, match=message):
        check_pause({**c, "pause": pause, **changes}, (8, 9) if "seed" in changes else (20, 21))


def test_selection_texts_need_no_dev_texts(tutor_problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tables.judged_tables(tutor_problem).tables[SELECTION]
    monkeypatch.setattr("kd_env.data.corpora.load_dev", lambda *_: pytest.fail("dev texts were read for the pause"))
    found = tables.selection_table(tutor_problem)
    assert list(found.tables) == [SELECTION] and found.dev_splits == ()
    assert found.tables[SELECTION].input_ids.equal(expected.input_ids)
