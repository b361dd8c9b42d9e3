"""Checkpoints: the newest whole one counts, nothing is lost between two renames, those of earlier versions go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from agents import load_agent
from agents.policy_gradient.reinforce import Reinforce
from cli.runs.checkpoints import Checkpoints
from cli.runs.watch import read_history
from kd_files import tensors
from kd_files.manifest import MANIFEST
from kd_files.reading import DamagedFile
from tests.identity import identity_vector_env


@pytest.fixture
def agent() -> Reinforce:
    return Reinforce(identity_vector_env("discrete", 2), seed=0)


def steps_of(path: Path | None) -> int:
    assert path is not None
    return int(load_agent(path).num_timesteps)  # type: ignore[attr-defined]


def test_the_newest_whole_checkpoint_counts_and_older_ones_go(
    agent: Reinforce, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Checkpoints(tmp_path / "checkpoint")
    assert kept.newest() is None
    kept.save(agent.learn(20), 20)
    with monkeypatch.context() as patch:  # killed before the old one went
        patch.setattr("cli.runs.checkpoints.shutil.rmtree", lambda *_, **__: None)
        kept.save(agent.learn(20, reset_num_timesteps=False), 40)
    first, second = sorted(path.name for path in kept.folder.iterdir())
    assert steps_of(kept.newest()) == agent.num_timesteps > 20 and capsys.readouterr().err == ""
    weights = kept.folder / second / "networks.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert kept.newest() == kept.folder / first
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1 and str(weights) in told and "older checkpoint" in told
    shutil.rmtree(kept.folder / first)
    with pytest.raises(ValueError, match=r"networks\.safetensors is damaged.*to begin anew delete"):
        kept.newest()
    kept.save(agent.learn(20, reset_num_timesteps=False), 60)
    assert [path.name for path in kept.folder.iterdir()] == [f"{60:012d}"]


@pytest.mark.parametrize("killed", [False, True])
def test_a_checkpoint_of_an_earlier_version_goes_on(agent: Reinforce, tmp_path: Path, killed: bool) -> None:
    """It lay in the folder itself; a kill between two renames left it beside, and a resumed training began at 0."""
    agent.learn(20).save(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / MANIFEST).unlink()
    if killed:
        (tmp_path / "checkpoint").rename(tmp_path / ".checkpoint.0a1b2c3d.old")
        (tmp_path / ".checkpoint.0a1b2c3d.new").mkdir()
    kept = Checkpoints(tmp_path / "checkpoint")
    assert steps_of(kept.newest()) == agent.num_timesteps
    kept.save(agent.learn(20, reset_num_timesteps=False), 40)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert [path.name for path in kept.folder.iterdir()] == [f"{40:012d}"]


def test_a_kill_between_the_renames_of_a_saved_agent_loses_nothing(agent: Reinforce, tmp_path: Path) -> None:
    agent.save(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / ".a.new")
    (tmp_path / "a").rename(tmp_path / ".a.old")
    assert load_agent(tmp_path / "a").num_timesteps == 0  # type: ignore[attr-defined]
    (tmp_path / "a").rename(tmp_path / ".a.old")
    agent.learn(20).save(tmp_path / "a")
    assert steps_of(tmp_path / "a") == agent.num_timesteps
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_agent_that_is_not_finite_is_neither_saved_nor_read(agent: Reinforce, tmp_path: Path) -> None:
    agent.save(tmp_path / "a")
    with torch.no_grad():
        next(agent.networks["policy."].parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"networks are not finite .* its training diverged"):
        agent.save(tmp_path / "a")
    assert load_agent(tmp_path / "a") is not None
    tensors.write_tensors(tmp_path / "a" / "networks.safetensors", agent._tensors()["networks"])
    (tmp_path / "a" / MANIFEST).unlink()
    with pytest.raises(ValueError, match=r"networks\.safetensors holds values that are not finite"):
        load_agent(tmp_path / "a")


def test_a_log_is_read_up_to_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = "".join(json.dumps({"timesteps": step}) + "\n" for step in (16, 32))
    path.write_text(whole + '{"timest')
    assert [point["timesteps"] for point in read_history(tmp_path)] == [16.0, 32.0]
    for damaged in ('{"timesteps": 16\n' + whole, whole + "[1]\n", whole + '{"timesteps": "x"}\n', whole + "{}\n"):
        path.write_text(damaged)
        with pytest.raises(DamagedFile, match=r"metrics\.jsonl is damaged"):
            read_history(tmp_path)
