"""What a server of forked workers does first: it is the first module that one is told to import."""

from __future__ import annotations

import os

MARK = "KD_ENV_WORKER_SERVER"
"""A variable that only a server has."""

# A signal to all processes of a command, as of `timeout` or of a terminal that is closed, would end the server, too;
# then nobody would know of its workers, and they would be killed in place of closing what they opened.
if os.environ.get(MARK):
    os.setsid()
