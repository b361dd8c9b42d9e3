"""The hub of data sets and models: asked once whether it can be reached."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ONE_AT_A_TIME = threading.RLock()
_SECONDS = 10.0


@contextmanager
def hub_asked_once() -> Iterator[None]:
    """What is loaded inside comes from the hub's cache alone where the hub does not answer one short question.

    The libraries themselves ask five times for every file, with pauses in between, before they look there.
    """
    from huggingface_hub import constants, get_session

    with _ONE_AT_A_TIME:  # the setting is that of the whole process
        before = constants.HF_HUB_OFFLINE
        if not before:
            try:
                get_session().head(constants.ENDPOINT, timeout=_SECONDS)
            except Exception:  # a client of any kind, and any reason: what is loaded says that it was not reached
                constants.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before
