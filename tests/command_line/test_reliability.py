"""The harnesses that kill jobs and damage files tell what is right from what is a fault."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from benchmarks.reliability import damage, kills, tiny
from kd_files.writing import new_folder, write_json


def test_outcomes_do_not_depend_on_where_they_are(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "checkpoint").mkdir(parents=True)
        rows = [{"policy": "x", "gap": 0.5, "runs": [str(tmp_path / name)]}]
        write_json(tmp_path / name / "comparison.json", {"entries": rows, "command": name})
        write_json(tmp_path / name / "results.json", {"policies": [{"policy": "x"}], "resumed": len(name)})
        (tmp_path / name / "checkpoint" / "w.safetensors").write_text(name)
        (tmp_path / name / "w.safetensors").write_text("same")
    one, two = (tiny.outcome(tmp_path / name) for name in ("a", "b"))
    assert one == two and set(one) == {"comparison.json", "results.json", "w.safetensors"}
    (tmp_path / "a" / "results.json").write_text("{")
    assert tiny.outcome(tmp_path / "a") != two


@pytest.mark.parametrize("name", list(damage.DAMAGES))
def test_every_damage_changes_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"key": "value"}))
    before = path.read_bytes()
    damage.DAMAGES[name](path, random.Random(0))
    assert not path.is_file() or path.read_bytes() != before


@pytest.mark.parametrize(
    ("said", "found", "verdict"),
    [
        ("kd-env train: error: /x/run/config.yaml is damaged", 2, "told"),
        ("kd-env train: error: something is wrong", 2, "UNCLEAR"),
        ("Traceback: KeyError: 'env'", -1, "TRACEBACK"),
        ("", {"results.json": [1]}, "harmless"),
        ("", {"results.json": [2]}, "SILENT"),
        ("config.yaml is what counts", {"results.json": [2]}, "told"),
    ],
)
def test_verdicts(said: str, found: object, verdict: str) -> None:
    path, expected = Path("/x/run/config.yaml"), {"results.json": [1]}
    assert damage._verdict(said, found, expected, path, "run/config.yaml") == verdict


def test_what_is_half_written_or_left_over_is_found(tmp_path: Path) -> None:
    with new_folder(tmp_path / "policy") as folder:
        write_json(folder / "agent.json", {"agent": "x"})
    assert kills._half_written(tmp_path) is None and kills._left_over(tmp_path) is None
    (tmp_path / ".agent.json-1.tmp").touch()
    assert str(kills._left_over(tmp_path)).endswith(".tmp")
    (tmp_path / "policy" / "agent.json").write_text("{")
    assert "agent.json is damaged" in str(kills._half_written(tmp_path))
