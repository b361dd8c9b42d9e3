"""Checkpoints and finished folders of fine-tuning: checked when they are read, the newest whole one counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kd_env.core.records import RECORD, read_record
from kd_env.finetuning.store import Checkpoints, becoming, write_record
from kd_env.models.pretrained import check_source
from kd_files.manifest import MANIFEST, check_manifest

IDENTITY = {"seed": 0}


def kept(output: Path, *steps: tuple[int, int]) -> Checkpoints:
    """Checkpoints of ``(step, best step)``, whose weights are the step."""
    store, model = Checkpoints(output, IDENTITY, resume=True), nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters())
    for step, best in steps:
        with torch.no_grad():
            model.weight.fill_(step)
        model(torch.ones(1)).backward()
        optimizer.step()
        store.save({"step": step, "best_step": best}, model, optimizer)
    return store


def test_the_newest_whole_checkpoint_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = kept(tmp_path / "teacher", (10, 10), (20, 10))
    assert store.latest() == {"step": 20, "best_step": 10} and not caplog.records
    for damaged in (20, 10):
        weights = tmp_path / "teacher.partial" / f"step-{damaged}" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
        if damaged == 20:
            assert store.latest() == {"step": 10, "best_step": 10}
            (record,) = caplog.records
            assert str(weights) in record.getMessage() and "older checkpoint of step 10" in record.getMessage()
    with pytest.raises(ValueError, match=r"step-20/model\.safetensors is damaged .*set resume=false"):
        store.latest()


def test_checkpoints_of_earlier_versions_go_on(tmp_path: Path) -> None:
    """They had no manifest, and their optimiser's file is the same."""
    store = kept(tmp_path / "teacher", (10, 10))
    (tmp_path / "teacher.partial" / "step-10" / MANIFEST).unlink()
    assert store.latest() == {"step": 10, "best_step": 10}
    model = nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters())
    store.load_model(10, model)
    store.load_optimizer(10, model, optimizer)
    assert float(optimizer.state_dict()["state"][0]["step"]) == 1.0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 10}', '{"step": "10", "best_step": 10}'])
def test_a_damaged_state_is_named(tmp_path: Path, text: str) -> None:
    store = kept(tmp_path / "teacher", (10, 10))
    folder = tmp_path / "teacher.partial" / "step-10"
    (folder / MANIFEST).unlink()
    (folder / "state.json").write_text(text)
    with pytest.raises(ValueError, match=r"state\.json is damaged .*set resume=false"):
        store.latest()
    (tmp_path / "teacher.partial" / "identity.json").write_text(text or "x")
    with pytest.raises(ValueError, match=r"identity\.json is damaged|made with other options"):
        Checkpoints(tmp_path / "teacher", IDENTITY, resume=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text(path.read_text().replace("0.5", "0.6")),
        lambda path: path.unlink(),
        lambda path: path.write_text(""),
    ],
    ids=["other content", "deleted", "empty"],
)
def test_a_teacher_folder_is_checked_before_it_is_used(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    """Another dropout in config.json makes another teacher without a word."""
    with becoming(tmp_path / "teacher") as folder:
        (folder / "config.json").write_text(json.dumps({"dropout": 0.5}))
        write_record(folder, {"task": "toy"})
    check_source(str(tmp_path / "teacher"))
    write_record(tmp_path / "teacher", {"task": "other"})
    assert read_record(tmp_path / "teacher") == {"task": "other"} and check_manifest(tmp_path / "teacher")
    damage(tmp_path / "teacher" / "config.json")
    with pytest.raises(ValueError, match=r"config\.json is (damaged|missing)|no config\.json"):
        check_source(str(tmp_path / "teacher"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["teacher"] and (tmp_path / "teacher" / RECORD).is_file()
