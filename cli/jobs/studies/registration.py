"""A study that is fixed before its numbers: what its file says, checked, and the hash of it.

The file is the pre-registration. Its hash is of what it says, not of its comments and blanks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from cli.settings.compose import leaves
from cli.settings.options import folder_name, names_of, whole
from cli.settings.presets import PACKAGE, groups, studies
from kd_env.core.registry import unknown_name
from kd_files.reading import read_text

GROUP = "study"
CONTROLS = ("none", "shuffled_reward", "untrained")
"""Where a file names none: the agent, one whose rewards say nothing, and one without training."""
_TOP = {
    "name": str,
    "question": str,
    "hypotheses": list,
    "primary": str,
    "units": str,
    "smallest_difference": float,
    "pilot": dict,
    "stopping": str,
    "trainings": int,
    "seeds": int,
    "blocks": list,
}
_MORE = {
    **{"controls": list, "interventions": list | str, "first_seed": int, "options": list, "transfer": list},
    "comment": str,
}
_BLOCK = {"name": str, "tasks": list, "agents": list}
_BLOCK_MORE = {
    "regimes": list,
    "students": list,
    "options": list,
    "controls": list,
    "interventions": list | str,
    "rules": list,
    "trainings": int,
    "seeds": int,
    "by_task": dict,
}
_HYPOTHESIS = {"name": str, "says": str, "agent": str, "block": str}
_HYPOTHESIS_MORE = {"above": str, "problems": list}
_TRANSFER = {"agent": str, "problems": list}
_TRANSFER_MORE = {"continued": bool}


@dataclass(frozen=True)
class Registration:
    """A study as its file fixes it."""

    values: Mapping[str, Any]
    """All that the file says."""
    place: str
    """Where it was read, for messages."""

    @property
    def name(self) -> str:
        """Of the study, and of its folder where none is given."""
        return str(self.values["name"])

    @property
    def hash(self) -> str:
        """SHA-256 of what the file says, in 64 hexadecimal digits."""
        text = json.dumps(self.values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def blocks(self) -> list[Mapping[str, Any]]:
        """Each a mapping with every key, those that the block leaves out as the whole study says them."""
        shared = {
            "regimes": ["none"],
            "students": [],
            "options": [],
            "rules": None,
            "by_task": {},
            "controls": self.values.get("controls", list(CONTROLS)),
            "interventions": self.values.get("interventions", "auto"),
            **{key: self.values[key] for key in ("trainings", "seeds")},
        }
        return [{**shared, **block} for block in self.values["blocks"]]


def read_registration(given: Any) -> Registration:
    """The study of a preset (``configs/study/<name>.yaml``) or of a file.

    Args:
        given: a name, or a path that ends in ``.yaml``.

    Raises:
        ValueError: no such preset or file, no YAML, or a key or value that does not fit, with what is allowed.
    """
    if not isinstance(given, str) or not given:
        raise ValueError(f"study={given!r} must be one of {', '.join(studies())}, or a .yaml file.")
    if given.endswith((".yaml", ".yml")):
        path = Path(given).expanduser()
        if not path.is_file():
            raise ValueError(f"study={given}: there is no such file (seen from {Path.cwd()}).")
        text = read_text(path, "write it as UTF-8")
    else:
        if given not in studies():
            raise ValueError(unknown_name("study", given, studies()) + " A file of your own ends in .yaml.")
        text = files(PACKAGE).joinpath(GROUP, f"{given}.yaml").read_text(encoding="utf-8")
    return Registration(checked(_parsed(text, given), given), given)


def _parsed(text: str, place: str) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:  # dates stay words, as in every other configuration, and no key stands twice
        return OmegaConf.to_container(OmegaConf.create(text))
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{place} is no YAML: {str(error).splitlines()[0]}.") from error


def checked(values: Any, place: str) -> Mapping[str, Any]:
    """What a file says, with every key and kind of value looked at; ``ValueError`` for the first that is wrong."""
    _keys(values, place, _TOP, _MORE)
    folder_name(values["name"])
    for key in ("trainings", "seeds"):
        whole(f"{place}: {key}", values[key], 1)
    _options(place, values.get("options", []))
    names = []
    for block in values["blocks"]:
        where = f"{place}: the block {block.get('name') if isinstance(block, Mapping) else block!r}"
        _keys(block, where, _BLOCK, _BLOCK_MORE)
        folder_name(block["name"])
        names.append(block["name"])
        for key in ("tasks", "regimes", "students"):
            if key in block:
                _presets(where, key, block[key])
        if not set(block.get("by_task", {})) <= set(block["tasks"]):
            raise ValueError(f"{where}: by_task names {sorted(block['by_task'])}, and tasks {block['tasks']}.")
        for options in (block.get("options", []), *block.get("by_task", {}).values()):
            _options(where, options)
        _refuse_against_regimes(
            where, block.get("regimes", []), [*values.get("options", []), *block.get("options", [])]
        )
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"{place}: blocks={names} must be at least one, each with a name of its own.")
    for hypothesis in values["hypotheses"]:
        where = f"{place}: the hypothesis {hypothesis.get('name') if isinstance(hypothesis, Mapping) else hypothesis!r}"
        _keys(hypothesis, where, _HYPOTHESIS, _HYPOTHESIS_MORE)
        if hypothesis["block"] not in names:
            raise ValueError(f"{where}: {unknown_name('block', hypothesis['block'], names)}")
    for transfer in values.get("transfer", []):
        _keys(transfer, f"{place}: an entry of transfer", _TRANSFER, _TRANSFER_MORE)
    return values  # type: ignore[no-any-return]


def _keys(values: Any, where: str, needed: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be a mapping with {', '.join(needed)}, got {values!r}.")
    allowed = {**needed, **more}
    for key, value in values.items():
        if key not in allowed:
            raise ValueError(f"{where}: {unknown_name('key', str(key), allowed)}")
        kind = allowed[key]
        fits = isinstance(value, int | float if kind is float else kind)
        if not fits or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{where}: {key}={value!r} must be of the kind {getattr(kind, '__name__', kind)}.")
    missing = [key for key in needed if key not in values]
    if missing:
        raise ValueError(
            f"{where} lacks {', '.join(missing)}. A study says before its first cell what it asks, by which "
            "measure, of how many trainings and seeds, and when it stops."
        )


def _presets(where: str, key: str, given: Sequence[Any]) -> None:
    group = key.removesuffix("s")
    for name in names_of(f"{where}: {key}", given):
        if name not in groups()[group]:
            raise ValueError(f"{where}: {unknown_name(group, name, groups()[group])}")


def _options(where: str, options: Any) -> None:
    if not isinstance(options, list) or not all(isinstance(text, str) and "=" in text for text in options):
        raise ValueError(f"{where}: options={options!r} must be a list of key=value of the main job.")


def _refuse_against_regimes(where: str, regimes: Sequence[str], options: Any) -> None:
    """Refuse options of all tasks that would take back what a regime says: its name would be a lie."""
    from omegaconf import OmegaConf

    for regime in regimes:
        preset = OmegaConf.create(files(PACKAGE).joinpath("regime", f"{regime}.yaml").read_text(encoding="utf-8"))
        said = leaves(preset)
        for text in options:
            key = text.partition("=")[0].lstrip("+")
            if key in said:
                raise ValueError(
                    f"{where}: {text} would take back what regime={regime} says; leave it out, say it for single tasks "
                    "in by_task, or give the regime a block of its own."
                )
