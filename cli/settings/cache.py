"""The cache folder, and the names that what is made has in it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kd_env.finetuning.contents import Contents


def cache_folder(configured: str | None) -> Path:
    """The cache folder: ``cache_dir``, else ``$XDG_CACHE_HOME/kd_env``, else ``~/.cache/kd_env``."""
    if configured:
        return Path(configured).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "kd_env"


def packed_options(c: Mapping[str, Any], env: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an environment that packs its texts: where they lie, and whether a bar is shown; else none.

    Args:
        c: resolved configuration.
        env: options of the environment.
    """
    if not env.get("packing"):
        return {}
    return {"cache_dir": str(cache_folder(c["cache_dir"])), "show_progress": bool(c["progress"])}


def made_folder(
    c: Mapping[str, Any],
    what: str,
    identity: Mapping[str, Any],
    contents: Contents,
    read: Callable[[Path], dict[str, Any] | None],
) -> str:
    """The folder of what is made from these options and contents.

    Args:
        c: resolved configuration.
        what: beginning of its name.
        identity: the options.
        contents: of the rows and the encoders.
        read: gives the record in a folder, or None.
    """
    from kd_env.finetuning.contents import content_folder

    mark = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:10]
    plain = cache_folder(c["cache_dir"]) / "teachers" / f"{what}-{mark}"
    return str(content_folder(plain, contents, read(plain)))
