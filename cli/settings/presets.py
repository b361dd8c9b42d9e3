"""What the configuration folder offers: groups, presets (nested ones too), descriptions; and names of plug-ins."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple

import configs
from kd_env.decisions.ids import environment_id
from kd_files.plugins import plugin_names

PACKAGE = configs.__name__
NO_EXPERIMENT = "none"
"""The experiment, or regime, that sets nothing: Hydra cannot take away a default by ``experiment=null``."""
JOB_GROUPS = {
    "config": ("task", "teacher", "student", "env", "objective", "agent", "experiment", "regime"),
    "finetune": ("task", "teacher"),
}
"""Groups of each primary configuration file, in the order in which help shows them."""


class PluginPresets(NamedTuple):
    """Names of plug-ins that stand for presets."""

    group: str  # of presets
    declared: str  # group of entry points
    prefix: str = ""


PLUGIN_PRESETS = (
    PluginPresets("task", "kd_env.tasks"),
    PluginPresets("env", "kd_env.decisions"),
    PluginPresets("objective", "kd_env.objectives"),
    PluginPresets("agent", "kd_env.agents"),
    PluginPresets("agent", "kd_env.rules", "rule/"),
)


def groups(job: str = "config") -> dict[str, tuple[str, ...]]:
    """Presets of every group of a job, nested ones as ``sb3/ppo``, and names of plug-ins that stand for one."""
    own = own_presets(job)
    return {group: tuple(sorted({*presets, *_plugins(group)})) for group, presets in own.items()}


@cache
def own_presets(job: str = "config") -> dict[str, tuple[str, ...]]:
    """Presets of every group of a job that have a file; files named ``_...`` are shared parts."""
    return {group: tuple(sorted(_presets(files(PACKAGE).joinpath(group)))) for group in JOB_GROUPS[job]}


def _plugins(group: str) -> dict[str, PluginPresets]:
    """Plug-ins of a group of presets; nothing is imported."""
    kinds = [kind for kind in PLUGIN_PRESETS if kind.group == group]
    return {kind.prefix + name: kind for kind in kinds for name in plugin_names(kind.declared)}


def offer_plugin(group: str, preset: str) -> None:
    """Have Hydra know a plug-in as a preset, where the name is one and no file has it.

    Raises:
        ValueError: a rule that does not load.
    """
    kind = _plugins(group).get(preset)
    if kind is None or preset in own_presets()[group]:
        return
    from hydra.core.config_store import ConfigStore

    package = "env" if group == "objective" else group
    *folders, name = preset.split("/")
    place = "/".join([group, *folders])
    ConfigStore.instance().store(name=name, node=_node(kind, name), group=place, package=package)


def _node(kind: PluginPresets, name: str) -> dict[str, Any]:
    """What a preset of a plug-in says."""
    if kind.group == "task":
        return {"defaults": ["_base", "_self_"], "name": name}
    if kind.group == "env":
        auto = dict.fromkeys(("terms", "reward"), "auto")
        return {"defaults": ["knowledge_selection", "_self_"], "id": environment_id(name), **auto}
    if kind.group == "objective":
        return {"objective": name}
    if not kind.prefix:
        return {"name": name, "action_view": "native", "options": {}, "from": None}
    from agents.rules.catalog import rule_class

    return {"name": name, "action_view": rule_class(name).views[0], "options": {}}


@cache
def studies() -> tuple[str, ...]:
    """Names of the studies that are fixed in a file of the configuration folder."""
    return tuple(sorted(_presets(files(PACKAGE).joinpath("study"))))


def description(group: str, preset: str) -> str:
    """The first comment of a preset's file, in one line."""
    text = files(PACKAGE).joinpath(group, *f"{preset}.yaml".split("/")).read_text(encoding="utf-8")
    words = []
    for line in text.splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        words.append(line.removeprefix("#").strip())
    return " ".join(words)


def option_comments(name: str) -> list[tuple[str, str, str]]:
    """``(dotted key, value, comment)`` of the values of a configuration file, for the help text."""
    group, _, preset = name.partition("/")
    if preset in _plugins(group) and preset not in own_presets()[group]:
        return [(key, str(value), "") for key, value in _node(_plugins(group)[preset], preset.split("/")[-1]).items()]
    found: list[tuple[str, str, str]] = []
    comment: list[str] = []
    outer: list[str] = []
    for line in files(PACKAGE).joinpath(*f"{name}.yaml".split("/")).read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("#"):
            comment.append(text.removeprefix("#").strip())
            continue
        key, _, value = text.partition(":")
        if text and not text.startswith("-"):
            outer = [*outer[: (len(line) - len(line.lstrip())) // 2], key]
            if value and outer[0] not in ("defaults", "hydra"):
                found.append((".".join(outer), value.strip(), " ".join(comment)))
        comment = []
    return found


def _presets(folder: Traversable, prefix: str = "") -> Iterator[str]:
    for item in folder.iterdir():
        if item.name.startswith("_"):
            continue
        if item.is_dir():
            yield from _presets(item, f"{prefix}{item.name}/")
        elif item.name.endswith(".yaml"):
            yield prefix + item.name.removesuffix(".yaml")
