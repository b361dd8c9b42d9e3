"""``kd-env <command> [key=value ...]``: every job behind one command. Imports nothing heavy before a job starts."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cli.errors import guarded

Job = Callable[[Sequence[str], str], object]


class Command(NamedTuple):
    """One subcommand."""

    summary: str
    config: str | None
    """Primary configuration file that its overrides are for; None where the command has options of its own alone."""
    load: Callable[[], Job]


def _train() -> Job:
    from cli.jobs.train import train

    return train


def _teacher() -> Job:
    from cli.jobs.teacher import make_teacher

    return make_teacher


def _evaluate() -> Job:
    from cli.jobs.evaluate import evaluate_any

    return evaluate_any


def _study() -> Job:
    from cli.jobs.study import study

    return study


def _tutor() -> Job:
    from cli.jobs.tutor import tutor

    return tutor


def _compare() -> Job:
    from cli.jobs.compare import compare_runs

    return compare_runs


def _bench() -> Job:
    from cli.jobs.bench import bench

    return bench


COMMANDS = {
    "train": Command("train an agent, judge it against the rules, write a report (the main job)", "config", _train),
    "teacher": Command("fine-tune a teacher, or a set together, on the train rows of a task", "finetune", _teacher),
    "evaluate": Command("judge a run's policy again, or fine-tune and compare students", "config", _evaluate),
    "study": Command("several independent trainings of several agents, and their comparison", "study", _study),
    "compare": Command("set finished runs beside each other: agents by independent trainings", "compare", _compare),
    "tutor": Command("train tutors that write tokens into text, and compare them", "tutor", _tutor),
    "bench": Command("measure speed and memory (source checkout only)", None, _bench),
}


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

    ``--help`` lists options, ``--cfg job`` prints the resolved configuration, ``--debug`` shows tracebacks.
    """
    overrides = [word for word in words if word != "--debug"]
    if "-h" in overrides or "--help" in overrides:
        return guarded(lambda: _print_help(name, overrides), program, debug="--debug" in words)
    if "--cfg" in overrides:
        place = overrides.index("--cfg")
        del overrides[place : place + 2]
        return guarded(lambda: _print_config(name, overrides), program, debug="--debug" in words)
    command = shlex.join([*program.split(), *overrides])
    return guarded(lambda: COMMANDS[name].load()(overrides, command), program, debug="--debug" in words)


def _print_help(name: str, words: Sequence[str]) -> None:
    from cli.help import bench_help, command_help

    named = next((word for word in words if not word.startswith("-") and "=" not in word), None)
    print(bench_help(named) if name == "bench" else command_help(name))


def _print_config(name: str, overrides: Sequence[str]) -> None:
    from cli.runs.folder import to_yaml
    from cli.settings.compose import compose
    from cli.settings.presets import JOB_GROUPS

    config = COMMANDS[name].config
    if config not in JOB_GROUPS:
        raise ValueError(f"--cfg is for {', '.join(n for n, c in COMMANDS.items() if c.config in JOB_GROUPS)}.")
    print(to_yaml(compose(config, overrides)), end="")


if __name__ == "__main__":
    sys.exit(main())
