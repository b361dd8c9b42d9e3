"""States on disk: exact, refused where the problem is another or a file is damaged, and without pickles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd_env import DistillEnv, DistillVectorEnv, build_problem
from kd_env.core import trees
from kd_env.core.locks import owned
from kd_env.decisions.options import env_config
from kd_env.envs.run import Run
from kd_env.envs.shells.stored import NUMBERS, STATE, write_state

Make = Callable[[], Any]
NAMES = ("terms", "sets of teachers", "rows with a teacher that learns", "tokens", "tokens one by one")


@pytest.fixture(scope="module")
def makers(tiny: dict[str, Any], tiny_problem: Any, tiny_set_problem: Any, tutor_problem: Any) -> dict[str, Make]:
    learning = {"teacher_updates": "prokt", "teacher_source": "online"}
    rows = {"decision": "sample_weighting", "features": ["gap", "row_student"], "updates_per_step": 1, **learning}
    row_problem = build_problem(env_config(**{**tiny, **rows}))
    makers: tuple[Make, ...] = (
        lambda: DistillEnv(problem=tiny_problem),
        lambda: DistillVectorEnv(2, problem=tiny_set_problem),
        lambda: DistillVectorEnv(2, problem=row_problem),
        lambda: DistillVectorEnv(2, problem=tutor_problem),
        lambda: DistillEnv(problem=tutor_problem, mode="sequential"),
    )
    return dict(zip(NAMES, makers, strict=True))


def leaves(tree: Any) -> list[Any]:
    found: list[Any] = []
    trees.map_leaves(found.append, tree)
    return found


def same(a: Any, b: Any) -> bool:
    """To the last bit, types and shapes included."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if a.dtype == object:
        return all(type(x) is type(y) for x, y in zip(a, b, strict=True)) and str(a) == str(b)
    return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())


@pytest.mark.parametrize("name", NAMES)
def test_another_environment_goes_on_with_the_same_bits(name: str, makers: dict[str, Make], tmp_path: Path) -> None:
    """In the middle of an episode and across its end, where the next one is drawn from the saved generator."""
    env, twin = makers[name](), makers[name]()
    env.reset(seed=3)
    env.action_space.seed(0)
    for _ in range(3):
        env.step(env.action_space.sample())
    env.save_state(tmp_path / "state")
    twin.load_state(tmp_path / "state")
    pairs = list(zip(leaves(env.get_state()), leaves(twin.get_state()), strict=True))
    assert len(pairs) > 30 and all(same(a, b) for a, b in pairs)
    assert twin.get_state().spec == env.get_state().spec
    for _ in range(12):
        action = env.action_space.sample()
        if isinstance(env, DistillEnv) and env.run.ended[0]:
            env.reset()
            twin.reset()
        ours, theirs = env.step(action), twin.step(action)
        for a, b in zip(leaves(ours[:4]), leaves(theirs[:4]), strict=True):
            assert np.array_equal(a, b)
        assert np.array_equal(ours[1], theirs[1])
    env.save_state(tmp_path / "state")  # takes the place of the older one
    assert json.loads((tmp_path / "state" / STATE).read_text())["format"] == 1


def test_what_does_not_fit_is_named(tiny_problem: Any, tmp_path: Path) -> None:
    env = DistillEnv(problem=tiny_problem)
    with pytest.raises(RuntimeError, match="reset"):
        env.save_state(tmp_path / "state")
    env.reset(seed=0)
    env.save_state(tmp_path / "state")
    with pytest.raises(ValueError, match=r"of another problem: options\.budget \d+ there, 77 here"):
        DistillEnv(problem=tiny_problem, budget=77).load_state(tmp_path / "state")
    with pytest.raises(ValueError, match="replicas 1 there, 2 here"):
        DistillVectorEnv(2, problem=tiny_problem).load_state(tmp_path / "state")
    with pytest.raises(ValueError, match="holds no state of an environment"):
        env.load_state(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no state of an environment; choose another folder"):
        env.save_state(tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    before = leaves(env.get_state())
    numbers = bytearray((tmp_path / "state" / NUMBERS).read_bytes())
    numbers[-1] ^= 1
    (tmp_path / "state" / NUMBERS).write_bytes(numbers)
    with pytest.raises(ValueError, match=rf"{NUMBERS} is damaged"):
        env.load_state(tmp_path / "state")
    assert all(same(a, b) for a, b in zip(before, leaves(env.get_state()), strict=True))


def test_a_type_that_a_file_names_is_not_made(tiny_problem: Any, tmp_path: Path) -> None:
    """Only types of the present state are: a name is no way to any other code."""
    env = DistillEnv(problem=tiny_problem)
    env.reset(seed=0)
    env.save_state(tmp_path / "state")
    path = tmp_path / "state" / STATE
    path.write_text(path.read_text().replace('"BatchStream"', '"Popen"'))
    for manifest in (tmp_path / "state").glob("*manifest*"):
        manifest.unlink()
    with pytest.raises(ValueError, match=r"no state as this version writes them \(KeyError\('Popen'\)\)"):
        env.load_state(tmp_path / "state")
    with pytest.raises(TypeError, match="cannot hold object at '/what'"):
        write_state(tmp_path / "other", {"what": object()}, {})
    assert not (tmp_path / "other").exists()


def test_a_second_writer_of_a_state_is_refused(tiny_problem: Any, tmp_path: Path) -> None:
    env = DistillEnv(problem=tiny_problem)
    env.reset(seed=0)
    folder = tmp_path / "state"
    with owned(folder, "state", "wait"), pytest.raises(ValueError, match=f"{folder} is being written by process"):
        env.save_state(folder)
    env.save_state(folder)
    env.load_state(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_states_of_earlier_versions_go_on(tiny_problem: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options that there were not have their defaults; any other value of them is another problem."""
    about = Run._about

    def earlier(run: Run) -> dict[str, Any]:
        found = about(run)
        options = {
            name: value for name, value in found["options"].items() if name not in ("fills", "max_episode_steps")
        }
        return {**found, "options": options}

    env = DistillEnv(problem=tiny_problem)
    env.reset(seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_about", earlier)
        env.save_state(tmp_path / "state")
    DistillEnv(problem=tiny_problem).load_state(tmp_path / "state")
    with pytest.raises(ValueError, match=r"options\.max_episode_steps None there, 3 here"):
        DistillEnv(problem=tiny_problem, max_episode_steps=3).load_state(tmp_path / "state")
