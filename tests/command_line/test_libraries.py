"""What docs/libraries.md shows runs as written, with the versions that the tests install."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "libraries.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("name", SECTIONS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_blocks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(SECTIONS[name], f"libraries.md, {name}", "exec"), {"__name__": "shown"})


def test_every_library_has_its_block() -> None:
    assert list(SECTIONS) == ["Stable-Baselines3", "One file, in the manner of CleanRL", "TorchRL", "RLlib"]


def test_stable_baselines3_sees_what_the_vector_env_does() -> None:
    """All students of one batch: the same observations and rewards, and the statistics of ended episodes."""
    import gymnasium as gym

    from agents import as_sb3

    options = {"num_envs": 3, "budget": 2}
    plain, env = (gym.make_vec("kd_env/KnowledgeSelection-v0", **options) for _ in range(2))
    shown = as_sb3(env)
    assert shown.num_envs == 3 and shown.action_space == plain.single_action_space
    shown.seed(5)
    first, _ = plain.reset(seed=5)
    assert np.array_equal(shown.reset(), first)
    actions = np.ones((3, *plain.single_action_space.shape), dtype=plain.single_action_space.dtype)
    ended = False
    while not ended:
        observations, rewards, _, truncations, _ = plain.step(actions)
        seen, paid, dones, infos = shown.step(actions)
        assert np.array_equal(seen, observations) and np.array_equal(paid, rewards.astype(np.float32))
        ended = bool(truncations.all() or dones.all())
    assert all(info["episode"]["l"] >= 1 and info["terminal_observation"].shape == first[0].shape for info in infos)
