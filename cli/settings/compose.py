"""Overrides in, plain resolved values out; whatever does not exist is named with near matches before any work.

Hydra composes, but its own errors name neither what is valid nor nested presets: so groups and keys are checked first.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from cli.settings.presets import NO_EXPERIMENT, PACKAGE, groups, offer_plugin, own_presets
from cli.settings.recipes import check_recipe, paper_recipe, paper_recipes
from cli.settings.unread import refuse_unread
from cli.settings.values import check_values
from kd_env.core.registry import unknown_name
from kd_env.data.tasks import EMBEDDED

OPEN = ("agent.options", "agent.label", "agent.from", "task.columns")
"""Mappings that take keys of their own; they are checked by those who read them."""


def compose(job: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved configuration of a job as plain values, with the chosen presets under ``presets``.

    Args:
        job: name of the primary configuration file, ``config`` or ``finetune``.
        overrides: ``key=value`` or ``group=preset``.

    Raises:
        ValueError: an unreadable override, an unknown group, preset or key, or a value that does not fit its key.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    composed, presets = _composed(job, resolve_overrides(job, overrides))
    try:
        config = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(str(error).splitlines()[0]) from error
    assert isinstance(config, dict)
    check_values(config)
    if job == "config":
        refuse_unread([override.key_or_group for override in map(_parse, overrides)], config)
    return {**{str(key): value for key, value in config.items()}, "presets": presets}


def resolve_overrides(job: str, overrides: Sequence[str], *, sweep: bool = False) -> list[str]:
    """Checked overrides as Hydra takes them.

    Args:
        job: as in :func:`compose`.
        overrides: as in :func:`compose`.
        sweep: whether several values (``key=a,b``) and keys of Hydra itself are allowed; each choice is checked.
    """
    parsed = [_parse(text) for text in overrides]
    for override in parsed:
        _check_form(override, sweep)
    if job == "config":
        parsed = _with_default_experiment(_as_published(parsed))
    parts: dict[str, list[Any]] = {"hydra": [], "preset": [], "value": []}
    available = groups(job)
    for override in parsed:
        key = override.key_or_group
        parts["hydra" if key.startswith("hydra") else "preset" if key in available else "value"].append(override)
    for override in parts["preset"]:
        _check_preset(override, available[override.key_or_group])
    chosen = [_first(override) for override in parts["preset"]]
    config, presets = _known(job, tuple(chosen))
    if presets.get("student") == "auto":
        # The student's preset follows the task; an experiment that names one keeps it.
        follows = f"student={'toy_small' if config.task.name in EMBEDDED else 'first2'}"
        chosen = [*(text for text in chosen if text != "student=auto"), follows]
        config, _ = _known(job, tuple(chosen))
    for override in parts["value"]:
        _check_key(override, config, available)
    values = [override.input_line for override in parts["value"]]
    values = [f"++{text.lstrip('+')}" if text.lstrip("+").startswith(OPEN) else text for text in values]
    if sweep:  # each job resolves its own presets again
        return [*(o.input_line for o in parts["preset"]), *values, *(o.input_line for o in parts["hydra"])]
    return [*chosen, *values]


def _with_default_experiment(parsed: list[Any]) -> list[Any]:
    """With ``experiment=none`` where a task, environment, objective or regime is named, and no experiment.

    The experiment that the primary configuration names is one problem: its wrong labels, terms and budget would be a
    surprise on any other.
    """
    named = {override.key_or_group for override in parsed}
    if "experiment" in named or not named & {"task", "env", "env.id", "objective", "regime"}:
        return parsed
    return [*parsed, _parse(f"experiment={NO_EXPERIMENT}")]


def _as_published(parsed: list[Any]) -> list[Any]:
    """The overrides with ``experiment=<name>`` as ``experiment=<its method>_paper`` where ``recipe=paper`` is given.

    Raises:
        ValueError: another recipe, several, no experiment, or one without such a recipe.
    """
    recipes = [override for override in parsed if override.key_or_group == "recipe"]
    for override in recipes:
        if override.is_sweep_override():
            raise ValueError(f"{override.input_line!r}: recipe takes one value; sweep over experiment=... instead.")
        check_recipe(override.value())
    if not recipes or recipes[-1].value() is None:
        return parsed
    known = groups()["experiment"]
    if not any(override.key_or_group == "experiment" for override in parsed):
        raise ValueError(f"recipe=paper needs experiment=<name>; valid: {', '.join(paper_recipes(known))}.")
    found = []
    for override in parsed:
        if override.key_or_group == "experiment":
            # Two experiments of one method would be the same run twice.
            names = ",".join(dict.fromkeys(paper_recipe(str(choice), known) for choice in _choices(override)))
            override = _parse(f"experiment={names}")
        found.append(override)
    return found


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """Keys that are given several values."""
    return [override.key_or_group for override in map(_parse, overrides) if override.is_sweep_override()]


def _known(job: str, presets: tuple[str, ...]) -> tuple[Any, dict[str, str]]:
    """What presets compose, not to be changed; a study, a sweep or a search asks for the same ones again and again."""
    own = own_presets(job)
    chosen = [override for override in map(_parse, presets) if override.key_or_group in own]
    # What a plug-in says is its own: another one may have its name later.
    plugins = any(override.value() not in own[override.key_or_group] for override in chosen)
    return _composed_presets(job, presets) if plugins else _kept_presets(job, presets)


def _composed(job: str, overrides: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """The configuration with its values, as Hydra puts them over what presets compose; and the chosen presets."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    available = groups(job)
    parsed = [_parse(text) for text in overrides]
    config, presets = _known(job, tuple(o.input_line for o in parsed if o.key_or_group in available))
    values = [override for override in parsed if override.key_or_group not in available]
    if values:
        config = deepcopy(config)
    try:
        for override in values:
            add = override.is_force_add()
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True, force_add=add)
    except OmegaConfBaseException as error:
        raise _unfit(overrides, error) from error
    return config, presets


@lru_cache(maxsize=256)
def _kept_presets(job: str, presets: tuple[str, ...]) -> tuple[Any, dict[str, str]]:
    return _composed_presets(job, presets)


def _composed_presets(job: str, overrides: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """Hydra's configuration without its own part, and the presets that were chosen."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import open_dict
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_module(PACKAGE, version_base="1.3"):
            config = hydra_compose(job, overrides=list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise _unfit(overrides, error.__cause__ or error) from error
    choices = config.hydra.runtime.choices
    presets = {str(key): str(value) for key, value in choices.items() if key in groups() and value is not None}
    for group in ("experiment", "regime"):
        if presets.get(group) == NO_EXPERIMENT:
            del presets[group]
    with open_dict(config):
        del config["hydra"]
    return config, presets


def _unfit(overrides: Sequence[str], cause: BaseException) -> ValueError:
    return ValueError(f"The overrides {list(overrides)} do not fit: {str(cause).splitlines()[0]}")


def _parse(text: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if text.startswith("-"):
        raise ValueError(f"Unknown flag {text!r}; options are written key=value, see --help.")
    if "=" not in text:
        raise ValueError(f"Cannot read {text!r}: write key=value, for example task=toy or env.budget=40.")
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        problem = str(error).splitlines()[0]
        raise ValueError(
            f"Cannot read {text!r}: {problem}. Put values with special characters in '\"quotes\"'."
        ) from None


def _check_form(override: Any, sweep: bool) -> None:
    text = override.input_line
    if not sweep and (override.is_sweep_override() or override.key_or_group.startswith("hydra")):
        raise ValueError(
            f"{text!r} is for sweeps: one job takes one value. Sweep with `python train_agent.py -m ...`, or write a "
            "list as key=[a,b]."
        )
    if override.package is not None or override.is_delete():
        raise ValueError(f"{text!r} is not supported: set a key to null instead of removing it.")
    if (override.is_add() or override.is_force_add()) and not override.key_or_group.startswith(OPEN):
        raise ValueError(f"{text!r} would add a key that nobody reads; new keys exist only under {' and '.join(OPEN)}.")


def _choices(override: Any) -> list[Any]:
    if override.is_sweep_override():
        return list(override.sweep_iterator())
    return [override.value()]


def _first(override: Any) -> str:
    """The override with its first choice."""
    if not override.is_sweep_override():
        return str(override.input_line)
    return f"{override.key_or_group}={next(iter(override.sweep_string_iterator()))}"


def _check_preset(override: Any, valid: Sequence[str]) -> None:
    group = override.key_or_group
    for choice in _choices(override):
        if not isinstance(choice, str) or choice not in valid:
            raise ValueError(unknown_name(f"{group} preset", choice, valid) + _value_hint(group))
        offer_plugin(group, choice)


def _value_hint(group: str) -> str:
    hints = {
        "experiment": f" experiment={NO_EXPERIMENT} takes none of them.",
        "teacher": " A model's folder is given with teacher.path=... or teacher.name_or_path=...",
        "student": " A model's folder is given with student=pretrained student.name_or_path=...",
        "task": " Own files: task=custom task.data_dir=... task.columns.text=[...] task.columns.label=...",
    }
    return hints.get(group, "")


def _check_key(override: Any, config: Any, available: dict[str, tuple[str, ...]]) -> None:
    key = override.key_or_group.replace("/", ".")
    if key.startswith(OPEN):
        return
    node = config
    passed: list[str] = []
    for part in key.split("."):
        if not hasattr(node, "keys") or part not in node:
            raise ValueError(_unknown_key(key, passed, node, config, available))
        node = node._get_node(part)
        node = node if hasattr(node, "keys") else None
        passed.append(part)
    if node is not None and not all(isinstance(choice, dict) for choice in _choices(override)):
        parts = ", ".join(f"{key}.{part}" for part in node)
        raise ValueError(f"{override.input_line!r}: {key} is no value but a group of options: {parts}.")


def _unknown_key(key: str, passed: list[str], node: Any, config: Any, available: dict[str, tuple[str, ...]]) -> str:
    if node is None:
        return f"Unknown option {key!r}: {'.'.join(passed)} has no parts."
    prefix = "".join(f"{part}." for part in passed)
    every = [*leaves(config), *available]
    # A bare name that exists deeper down ("budget") is the commonest slip.
    near = [name for name in every if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    near += [name for name in get_close_matches(key, every, n=3, cutoff=0.6) if name not in near]
    hint = f" Did you mean {' or '.join(repr(name) for name in near[:3])}?" if near else ""
    here = sorted({*(prefix + str(name) for name in node), *(() if passed else available)})
    return f"Unknown option {key!r}.{hint} Valid: {', '.join(here)}."


def leaves(config: Any, prefix: str = "") -> list[str]:
    """Dotted names of all values of a configuration."""
    found = []
    for key in config:
        node = config._get_node(key) if hasattr(config, "_get_node") else config[key]
        name = f"{prefix}{key}"
        found += leaves(node, f"{name}.") if hasattr(node, "keys") and len(node) else [name]
    return found
