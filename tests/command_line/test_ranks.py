"""The main job in two processes that a launcher started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.jobs import ranks
from cli.main import main
from cli.settings.compose import compose
from cli.settings.read import read_begun
from tests.launched import two_ranks

RUN = [
    *("experiment=quick", "agent=reinforce", "env.budget=8", "num_envs=2", "total_timesteps=64", "checkpoint_every=16"),
    *("task.max_train_rows=64", "task.feedback_rows=32", "task.selection_rows=32", "env.evaluation_rows=32"),
    *("evaluation.seeds=1", "evaluation.rules=[all]", "progress=false", "name=run"),
]


def test_ranks_train_and_judge_in_one_run_folder_and_go_on_there(tmp_path: Path) -> None:
    runs, temporary = tmp_path / "runs", tmp_path / "temporary"
    temporary.mkdir()
    places = {"KD_ENV_RUNS": str(runs), "TMPDIR": str(temporary)}
    words = ["cli.main", "train", *RUN, f"cache_dir={tmp_path / 'cache'}"]
    first = two_ranks([*words, "pause.at=24", "pause.seeds=1"], **places)
    assert [status for status, _ in first] == [0, 0], first
    assert "2 ranks train each student together" in first[0][1]
    assert "Task toy" in first[0][1] and "Task toy" not in first[1][1]  # what the leader says is said once
    paused = json.loads((runs / "run" / "pause" / "result.json").read_text())
    assert paused["steps"] >= 24 and not (runs / "run" / "policy").exists()
    second = two_ranks([*words, "resume=true"], **places)
    assert [status for status, _ in second] == [0, 0], second
    results = json.loads((runs / "run" / "results.json").read_text())
    assert {policy["policy"] for policy in results["policies"]} >= {"reinforce", "all"}
    assert [path.name for path in runs.iterdir() if not path.name.startswith(".")] == ["run"]
    assert not list(temporary.glob("kd-env-rank*"))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("env.batch_size=15", "env.batch_size=15 cannot be shared alike between 2 processes; choose a multiple of 2"),
        ("vectorization=processes", "vectorization=processes has students in processes of their own"),
    ],
)
def test_what_ranks_cannot_do_together_is_refused_before_they_meet(
    option: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    settings: Any = read_begun(compose("config", ["cache_dir=cache", option]))
    with pytest.raises(ValueError, match=words):
        ranks.check(settings)


def test_other_jobs_are_for_one_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["study", "agents=[actor_critic]"]) == 2
    assert "study is work for one process, and a launcher started 2" in capsys.readouterr().err


def test_a_world_size_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="WORLD_SIZE='two' must be a number"):
        ranks.several()
