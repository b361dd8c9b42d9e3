"""``python -m`` this, a pipe, a module and its words: the module, in a process that ends with its parent."""

from __future__ import annotations

import os
import runpy
import sys

from kd_env.core.processes import end_when_ready


def main() -> None:
    """Run a module as :func:`kd_env.core.processes.start` asks for it."""
    _, lifeline, module, *words = sys.argv
    os.set_inheritable(int(lifeline), False)
    end_when_ready(int(lifeline))
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
