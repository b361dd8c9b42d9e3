"""Files that are whole or not there at all."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write to a temporary name beside ``path``, then rename: readers see the old file or the whole new one."""
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def without_infinities(value: Any) -> Any:
    """JSON has no infinity and no NaN: None stands for "unknown"."""
    if isinstance(value, dict):
        return {str(key): without_infinities(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_infinities(item) for item in value]
    if isinstance(value, np.generic):
        return without_infinities(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
