"""The main job: ``python train_agent.py [key=value ...]``; ``-m`` sweeps over values separated by commas."""

from __future__ import annotations

import sys

from cli.main import run

if __name__ == "__main__":
    sys.exit(run("train", sys.argv[1:], "python train_agent.py"))
