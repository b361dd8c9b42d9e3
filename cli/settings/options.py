"""Options of the jobs that have a flat configuration file of their own, beside those of the main job."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from cli.settings.presets import PACKAGE
from cli.settings.values import check_values
from kd_env.core.registry import unknown_name

LONGEST_NAME = 200
"""Bytes of a folder's name: systems take 255, and its lock and log have longer names."""
_PLACE = ("backend", "jobs", "cpus", "gpus", "retries", "ray_address")
"""Options of a study that say where its processes run, beside those that begin with ``slurm_``."""


def split_options(job: str, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The values of ``configs/<job>.yaml`` after the words that are for them, and all other words.

    Args:
        job: name of the file.
        words: ``key=value``; a value is YAML, as ``[a,b]``, ``5`` or ``null``.

    Raises:
        ValueError: a value that cannot be read, or a key that is given twice.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    defaults = OmegaConf.create(files(PACKAGE).joinpath(f"{job}.yaml").read_text(encoding="utf-8"))
    given, others = {}, []
    for word in words:
        key, equals, _ = word.partition("=")
        if not equals or key not in defaults:
            others.append(word)
            continue
        if key in given:
            raise ValueError(f"{key}=... is given twice; write several values as a list, {key}=[a,b].")
        try:
            given[key] = OmegaConf.from_dotlist([word])[key]
        except (OmegaConfBaseException, YAMLError) as error:
            raise ValueError(
                f"Cannot read {word!r}: {str(error).splitlines()[0]}. Put values with special characters in "
                "'\"quotes\"'."
            ) from error
    options = OmegaConf.to_container(OmegaConf.merge(defaults, given), resolve=True)
    assert isinstance(options, dict)
    check_values(options)
    return {str(key): value for key, value in options.items()}, others


def split_folders(job: str, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The options of a job that reads runs, and their folders or patterns: words without ``=``, and those of ``runs``.

    Raises:
        ValueError: as :func:`split_options`, or a word that is neither.
    """
    options, rest = split_options(job, words)
    patterns = [word for word in rest if "=" not in word and not word.startswith("-")]
    for word in rest:
        if word not in patterns:
            raise ValueError(unknown_name("option", word.split("=", 1)[0], options))
    return options, patterns + (names_of("runs", options["runs"]) if options["runs"] is not None else [])


def split_place(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Where processes run, as a study's options say it, and all other words; raises as :func:`split_options`."""
    mine = [says_place(word.partition("=")[0]) for word in words]
    place, unknown = split_options("study", [word for word, own in zip(words, mine, strict=True) if own])
    return place, [*unknown, *(word for word, own in zip(words, mine, strict=True) if not own)]


def says_place(key: str) -> bool:
    """Whether an option of a study says where processes run."""
    return key in _PLACE or key.startswith("slurm_")


def names_of(key: str, value: Any) -> list[str]:
    """One name or a list of them as a list without repeats.

    Raises:
        ValueError: anything else.
    """
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{key}={value!r} must be a name or a list of names, as {key}=[a,b].")
    if len(set(names)) != len(names):
        raise ValueError(f"{key}={value!r} names something twice.")
    return names


def folder_name(value: Any) -> str:
    """The value of ``name``, which a folder is to have.

    Raises:
        ValueError: no plain name, or one that is too long for a folder with what stands beside it.
    """
    if not isinstance(value, str) or not value or value != Path(value).name or value.startswith("."):
        raise ValueError(f"name={value!r} must be a plain folder name; set runs_dir=... for another place.")
    if len(os.fsencode(value)) > LONGEST_NAME:
        raise ValueError(
            f"name={value[:40]}... has {len(os.fsencode(value))} bytes; choose one of at most {LONGEST_NAME}."
        )
    return value


def flag(key: str, value: Any) -> bool:
    """A value that is true or false.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{key}={value!r} must be true or false.")
    return value


def whole(key: str, value: Any, low: int) -> int:
    """A whole number of at least ``low``.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{key}={value!r} must be a whole number of at least {low}.")
    return value
