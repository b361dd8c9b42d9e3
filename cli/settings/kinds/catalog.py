"""Which kind of environment an id names: the one place that tells them apart."""

from __future__ import annotations

from typing import Any

from cli.settings.kinds.base import Reader
from cli.settings.kinds.labels import LabelReader
from cli.settings.kinds.tokens import TokenReader

LABELS, TOKENS = LabelReader(), TokenReader()


def reader_of(identity: object) -> Reader[Any]:
    """What reads the settings of an environment by its id; one that is not known is refused when it reads."""
    return TOKENS if identity == "kd_env/TutorToken-v0" else LABELS
