"""What trainings and studies show while they run: TensorBoard's groups, and the terminal."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

from cli.runs.loggers.base import Shown
from cli.runs.loggers.catalog import Loggers
from cli.runs.loggers.content import show_point
from cli.runs.shown import groups

ROOT = Path(__file__).resolve().parents[2]


# -- TensorBoard -------------------------------------------------------------------------------------------------------


def metrics_of_agents() -> set[str]:
    """Every name that the code of an agent gives a metric: keys of what is called ``Metrics`` or ``metrics``."""
    found: set[str] = set()
    for path in (ROOT / "agents").rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                about = function.returns is not None and "Metrics" in ast.unparse(function.returns)
                nodes = list(ast.walk(function))
                asked = [node.value for node in nodes if isinstance(node, ast.Attribute)]  # {...}.get(name)
                for node in nodes:
                    found |= _named(node) | (_keys(node) if about and node not in asked else set())
    return found


def _named(node: ast.AST) -> set[str]:
    if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) or node.value is None:
        return set()
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    if "metrics" not in ast.unparse(target) and ast.unparse(target) != "counts":
        return set()
    key = target.slice if isinstance(target, ast.Subscript) else None
    return _keys(node.value) | ({str(key.value)} if isinstance(key, ast.Constant) else set())


def _keys(node: ast.AST) -> set[str]:
    keys = node.keys if isinstance(node, ast.Dict) else []
    return {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}


def metrics_of_sb3() -> set[str]:
    """Every name under which Stable-Baselines3 and its contributions log what the adapter passes on."""
    found: set[str] = set()
    for package in ("stable_baselines3", "sb3_contrib"):
        spec = importlib.util.find_spec(package)
        for place in spec.submodule_search_locations or () if spec else ():
            for path in Path(place).rglob("*.py"):
                found |= set(re.findall(r'record\("train/(\w+)"', path.read_text(encoding="utf-8")))
    return found


def test_no_metric_is_left_without_a_group(tiny_problem: Any) -> None:
    from cli.runs.watch import _OF_STUDENTS
    from kd_env.decisions.sample_weighting.measures import RightRows
    from kd_env.decisions.teacher_weighting.measures import BestTeacherFollowed
    from kd_env.decisions.tutor_token import measures

    own, foreign = metrics_of_agents(), metrics_of_sb3()
    assert {"timesteps", "fps", "return_mean", "policy_loss", "critic_loss", "updates", "kl", "entropy"} <= own
    assert {"approx_kl", "n_updates", "std", "policy_objective"} <= foreign
    source = Path(measures.__file__).read_text(encoding="utf-8")
    tokens = {name for name in re.findall(r'TokenMean\("(\w+)"', source) if not re.search("_(first|last)$", name)}
    of_policies = {"skipped", RightRows.name, BestTeacherFollowed.name, *tokens, "weight_soft_label"}
    names = {*own, *foreign, *of_policies, *_OF_STUDENTS} - groups.NO_METRICS - {"policy_gradient_loss"}
    assert [name for name in sorted(names) if not groups.has_group(name)] == []
    from agents.sb3.adapter import _NAMES

    assert "policy_gradient_loss" in _NAMES  # which is shown as policy_loss
    shown = {name: groups.group_of(name) for name in ("return_mean", "entropy", "weight_0", "gap_closed", "new_loss")}
    assert list(shown.values()) == ["train", "policy", "policy", "student", "train"]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_training_that_goes_on_shows_every_step_once(tmp_path: Path) -> None:
    for done in (0, 8):
        logger = Loggers(["tensorboard"], Shown(tmp_path, "run", "project", {}, done))
        for step in (4, 8, 12) if done == 0 else (12, 16):
            point = {"timesteps": step, "return_mean": step + done, "weight_hidden_states": 0.5, "gap_closed": -1.0}
            show_point(logger, point)
        logger.close()
    found = scalars(tmp_path)
    assert set(found) == {"train/return_mean", "policy/weight_hidden_states", "student/gap_closed"}
    assert found["train/return_mean"] == [(4, 4), (8, 8), (12, 20), (16, 24)]
