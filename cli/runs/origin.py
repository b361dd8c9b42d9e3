"""Where the agent of a run began: as drawn, or as that of another run (``agent.from=<run folder>``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.common.storage import read_header
from cli.runs.folder import CHECKPOINT, POLICY, check_spaces, read_run
from kd_files.manifest import digests
from kd_files.reading import read_json
from kd_files.writing import write_json

ORIGIN = "origin.json"
BEGAN_FROM = "began_from"
"""Key of :func:`origin` in results."""
_REMEDY = "it only says where the agent began: delete it"


def source_of(resolved: Mapping[str, Any]) -> Path | None:
    """The run whose policy an agent begins with; None for one that is drawn."""
    source = resolved["agent"].get("from")
    return None if source is None else Path(source)


def check_source(resolved: Mapping[str, Any], folder: Path) -> None:
    """Refuse a run from which the agent cannot begin, before any work; one that has begun needs it no more.

    Args:
        resolved: configuration of the run.
        folder: of the run.

    Raises:
        ValueError: no run, no policy in it, another kind of agent, or a control, which is to have learned nothing.
    """
    source = source_of(resolved)
    if source is None or any((folder / name).exists() for name in (POLICY, CHECKPOINT)):
        return
    before, _ = read_run(source)
    if resolved["control"] != "none":
        raise ValueError(
            f"agent.from={source} with control={resolved['control']}: a control is to have learned nothing, and this "
            "agent would begin with what another run has learned. Leave one of them out."
        )
    name, other = resolved["agent"]["name"], read_header(source / POLICY)["agent"]
    if name != other:
        raise ValueError(
            f"agent.from={source}: its policy is one of {other!r} ({before['agent']['name']!r} in its configuration), "
            f"and this agent is {name!r}; choose agent={other}, or another run."
        )


def check_fits(resolved: Mapping[str, Any], env: Any) -> None:
    """Refuse a source whose observations or actions mean something else than those of ``env``; ``ValueError``."""
    source = source_of(resolved)
    if source is not None:
        check_spaces(source, env, f"Begin from another run than agent.from={source}, or train with the same")


def begin(agent: Any, source: Path, env: Any, folder: Path) -> None:
    """Give an agent, fresh in ``env``, the policy of a run, and write into its run folder where that came from.

    Raises:
        ValueError: an agent of another distribution that cannot, or networks of other sizes.
    """
    if not hasattr(agent, "start_from"):
        raise ValueError(f"{type(agent).__name__} cannot begin with another's policy; leave agent.from out.")
    policy = source / POLICY
    agent.start_from(policy, env)
    steps = read_header(policy).get("num_timesteps")
    write_json(folder / ORIGIN, {"run": str(source), "steps": steps, "policy": digests(policy)})


def origin(folder: Path) -> dict[str, Any] | None:
    """What :func:`begin` wrote; None for an agent that was drawn."""
    path = folder / ORIGIN
    return read_json(path, _REMEDY, {"run": str, "policy": dict}) if path.is_file() else None


def words(folder: Path) -> str:
    """A sentence for reports; empty for an agent that was drawn."""
    found = origin(folder)
    if found is None:
        return ""
    return (
        f"The agent began with the policy of the run {found['run']} after {found['steps']} steps: its own steps are "
        "counted from there, and trainings that begin with one policy are not independent of each other.\n"
    )
