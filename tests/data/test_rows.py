"""The rows of a problem: what is missing among them is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kd_env.data.loading import get_task
from kd_env.data.rows import read_rows
from kd_env.decisions.options import env_config

COLUMNS = {"text": "text", "label": "label", "kind": "classification", "labels": ["bad", "good", "rare"]}


def write(folder: Path, rare: int) -> str:
    labels = ["rare"] * rare + ["bad", "good"] * 50
    lines = [json.dumps({"text": f"text n{place}", "label": label}) for place, label in enumerate(labels)]
    (folder / "train.jsonl").write_text("\n".join(lines))
    return str(folder)


def test_a_class_without_a_feedback_row_is_told(tmp_path: Path) -> None:
    config = env_config(task="custom", data_dir=write(tmp_path, 2), columns=COLUMNS, teacher="t", feedback_rows=10)
    task = get_task("custom", COLUMNS, config.data_dir)
    with pytest.warns(UserWarning, match=r"No evaluated feedback row is of class rare: .*raise feedback_rows"):
        rows = read_rows(config, task)
    assert (rows.texts.labels == 2).sum() == 2


def test_a_class_without_a_train_row_is_told(tmp_path: Path) -> None:
    config = env_config(task="custom", data_dir=write(tmp_path, 0), columns=COLUMNS, teacher="t", feedback_rows=10)
    with pytest.warns(UserWarning) as told:
        read_rows(config, get_task("custom", COLUMNS, config.data_dir))
    assert [str(warning.message).split(":")[0] for warning in told] == [
        "No train row is of class rare",
        "No evaluated feedback row is of class rare",
    ]
    config = env_config(task="custom", data_dir=write(tmp_path, 40), columns=COLUMNS, teacher="t", feedback_rows=10)
    read_rows(config, get_task("custom", COLUMNS, config.data_dir))  # no warning, which would be an error here
