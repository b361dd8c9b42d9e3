"""``kd-env <command> [key=value ...]``: every job behind one command. Imports nothing heavy before a job starts."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

from cli.commands import COMMANDS
from cli.errors import guarded

SWEEP_FLAGS = ("-m", "--multirun")


def main(argv: Sequence[str] | None = None) -> int:
    """The console script; the exit status (0, or 2 after an error of the user)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        from cli.help import overview

        print(overview())
        return 0 if words else 2
    name, rest = words[0], words[1:]
    if name == "--version":
        import kd_env

        print(f"kd-env {kd_env.__version__}")
        return 0
    if name not in COMMANDS:
        from kd_env.core.registry import unknown_name

        print(f"kd-env: error: {unknown_name('command', name, COMMANDS)}", file=sys.stderr)
        return 2
    return run(name, rest, f"kd-env {name}")


def run(name: str, words: Sequence[str], program: str) -> int:
    """One command with its words; the exit status.

    ``-m`` sweeps (the main job alone), ``--help`` lists options, ``--cfg job`` prints the resolved configuration,
    ``--debug`` shows tracebacks.
    """
    overrides = [word for word in words if word != "--debug"]
    world = os.environ.get("WORLD_SIZE", "1")
    if name != "train" and world != "1":
        told = f"{name} is work for one process, and a launcher started {world} (WORLD_SIZE); start it without one."
        print(f"{program}: error: {told}", file=sys.stderr)
        return 2
    if "-h" in overrides or "--help" in overrides:
        return guarded(lambda: _print_help(name, overrides), program, debug="--debug" in words)
    if "--cfg" in overrides:
        place = overrides.index("--cfg")
        del overrides[place : place + 2]
        return guarded(lambda: _print_config(name, overrides), program, debug="--debug" in words)
    if name == "train" and any(word in SWEEP_FLAGS for word in overrides):
        return guarded(lambda: _sweep(overrides, program), program, debug="--debug" in words)
    command = shlex.join([*program.split(), *overrides])
    return guarded(lambda: COMMANDS[name].load()(overrides, command), program, debug="--debug" in words)


def _sweep(overrides: Sequence[str], program: str) -> None:
    from cli.sweep import sweep

    sweep([word for word in overrides if word not in SWEEP_FLAGS], program)


def _print_help(name: str, words: Sequence[str]) -> None:
    from cli.help import bench_help, command_help

    if name == "tutor":
        COMMANDS[name].load()(words, "")

    named = next((word for word in words if not word.startswith("-") and "=" not in word), None)
    print(bench_help(named) if name == "bench" else command_help(name))


def _print_config(name: str, overrides: Sequence[str]) -> None:
    from cli.runs.config import to_yaml
    from cli.settings.compose import compose
    from cli.settings.presets import JOB_GROUPS

    config = COMMANDS[name].config
    if config not in JOB_GROUPS:
        raise ValueError(f"--cfg is for {', '.join(n for n, c in COMMANDS.items() if c.config in JOB_GROUPS)}.")
    print(to_yaml(compose(config, overrides)), end="")


if __name__ == "__main__":
    sys.exit(main())
