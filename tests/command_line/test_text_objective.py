"""The main job under ``objective=text``: terms, teachers and rows decided while students learn masked text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from cli.settings.compose import compose
from cli.settings.read import check, read_settings
from kd_env.data.toy import masked_lm_folder

pytestmark = pytest.mark.usefixtures("undrawn")
FOLDER = masked_lm_folder("toy")
SMALL = [
    *("objective=text", "task.max_train_rows=64", "task.feedback_rows=24", "task.selection_rows=24"),
    *("env.evaluation_rows=16", "env.budget=4", "env.batch_size=4", "num_envs=2", "total_timesteps=16"),
    *("checkpoint_every=0", "evaluation.seeds=2", "agent.options.n_steps=2", "progress=false"),
]
TEACHERS = f"teachers=[{{name: a, path: '{FOLDER}'}}, {{name: b, path: '{FOLDER}'}}]"
RUNS = {
    "knowledge_selection": ["agent=actor_critic", "evaluation.rules=[all]"],
    "teacher_weighting": ["agent=actor_critic", "evaluation.rules=[average]", TEACHERS],
    "sample_weighting": ["agent=actor_critic", "evaluation.rules=[uniform]", "save_students=1"],
}


def settings(*words: str) -> Any:
    return check(read_settings(compose("config", list(words))))


@pytest.mark.parametrize("env", list(RUNS))
def test_every_decision_trains_and_is_judged(env: str, tmp_path: Path) -> None:
    words = [f"env={env}", *RUNS[env], *SMALL, f"runs_dir={tmp_path}", "name=run"]
    assert run("train", words, "") == 0
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["facts"]["task"] == "text toy" and found["facts"]["slots"] >= 1
    first, _ = found["policies"]
    assert first["policy"] == "actor_critic"
    assert found["term_names"][0].startswith("plausibility") and found["dev_splits"] == ["dev"]
    if env == "sample_weighting":
        student = tmp_path / "run" / "students" / "seed10000"
        assert (student / "model.safetensors").is_file() and not (student / "kd_env.json").exists()
    again = ["evaluate", [f"run={tmp_path / 'run'}", "evaluation.seeds=1", "progress=false"], ""]
    assert run(*again) == 0


def test_the_resolved_options_say_what_auto_became() -> None:
    resolved = settings("env=sample_weighting", "objective=text", "env.action_view=box").resolved["env"]
    assert resolved["terms"] == ("plausibility", "hidden_states", "attention") and resolved["score"] == "edit_error"
    assert "row_edit" in resolved["features"] and resolved["masking"] == "fixed"
    given = settings("env=knowledge_selection", "objective=text", "env.terms=[plausibility]").env
    assert given.terms == ("plausibility",) and given.objective == "text"
    tutor = settings("env=tutor_token", "objective=labels", "agent=tutor", "env.protocol=frozen").env
    assert tutor.objective == "labels"


@pytest.mark.parametrize("env", ["knowledge_selection", "tutor_token"])
def test_packed_texts_lie_in_the_cache(env: str, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.jsonl").write_text('{"body": "a few words"}\n')
    words = [f"env={env}", f"env.text={tmp_path / 'text'}", f"cache_dir={tmp_path / 'cache'}"]
    words += [f"teacher.path={FOLDER}", "env.packing=true", "agent=tutor" if env == "tutor_token" else "objective=text"]
    found = settings(*words, "env.column=body").env
    assert found.packing and found.cache_dir == str(tmp_path / "cache")
    if env == "knowledge_selection":
        with pytest.raises(ValueError, match=r"Unknown column 'text'. Valid: body. Name it with column="):
            settings(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["env=knowledge_selection", "env.terms=[hard_label]"], "objective='text'"),
        (["env=knowledge_selection", "control=teacher_is_student"], "possible: none, shuffled_reward"),
        (["env=knowledge_selection", "control=shuffled_feedback"], "possible: none, shuffled_reward"),
        (["env=knowledge_selection", "task.label_noise=0.2"], "label_noise"),
        (["env=knowledge_selection", "teacher.source=online", "env.gap=divergence"], "gap"),
        (["env=knowledge_selection", "env.text=/no/such/folder"], "no/such/folder"),
        (["env=sample_weighting", "evaluation.rules=[lgtm]"], "lgtm"),
        (["env=sample_weighting", "env.action_view=box", "env.score=margin"], "edit_error"),
    ],
)
def test_what_has_no_meaning_is_refused_before_any_work(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings("objective=text", *words)
