"""Optional packages: where one is absent, the extra that brings it is named."""

from __future__ import annotations

import importlib.util


def require(package: str, extra: str, option: str) -> None:
    """Refuse an option whose package is not installed.

    Raises:
        ValueError: with the extra that brings it.
    """
    if importlib.util.find_spec(package) is None:
        raise ValueError(f'{option} needs the package {package!r}, which is absent: pip install "kd-env[{extra}]".')
