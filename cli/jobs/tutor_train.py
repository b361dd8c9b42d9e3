"""The trainings of ``kd-env tutor``: agents that learn beside many students, or each beside one that is kept."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.jobs.tutor_report import JUDGED, keep_students, read_judged, write_judged
from cli.runs.watch import Lines

if TYPE_CHECKING:
    from kd_env.decisions.tutor_token.problem import TutorProblem
    from kd_env.envs.tutor_env import TutorVectorEnv
    from kd_env.evaluation.judging.tutoring import TutorResult

_WHOLE_EPISODES = ("reinforce", "sb3/ars")
"""Agents that learn from whole episodes only."""
_ROLLOUT = 32
"""Steps of a rollout with ``protocol=joint``, or the next smaller number that divides the episode."""


@dataclass(frozen=True)
class Entry:
    """An agent of a study."""

    name: str
    label: str
    """Begins the names of its folders."""
    options: dict[str, Any]
    """Hyper-parameters."""
    env: dict[str, Any]
    """Options of the decision process in which it differs from the study."""

    def trained(self, seed: int) -> str:
        """Name of the training with a seed."""
        return f"{self.label}-seed{seed}"


def make(entry: Entry, env: TutorVectorEnv, options: Mapping[str, Any], seed: int) -> Any:
    """An agent that has learned nothing.

    Raises:
        ValueError: options or an environment that do not fit it.
    """
    from agents import make_agent
    from agents.sb3.algorithms import ALGORITHMS

    own: dict[str, Any] = dict(entry.options)
    off = entry.name.startswith("sb3/") and ALGORITHMS[entry.name[4:]].family == "off"
    if options["protocol"] == "joint":
        own = {**_while_acting(entry, env.episode_steps, off), **own}
    if off:
        # Observations are long: room for SB3's 100,000 of them may be more than there is memory.
        own.setdefault("buffer_size", min(100_000, _steps(env, options)))
    try:
        return make_agent(entry.name, env, seed=seed, device=_device(options), **own)
    except ValueError as error:
        raise ValueError(f"The agent {entry.label}: {error}") from error


def check_learns(entry: Entry, problem: TutorProblem, options: Mapping[str, Any]) -> None:
    """Refuse an agent that would learn nothing, or with ``protocol=joint`` nothing before its student is finished.

    Raises:
        ValueError: that, or a number of steps that is not that of the one episode.
    """
    from kd_env.envs.tutor_env import TutorVectorEnv

    env = TutorVectorEnv(options["num_envs"], problem=problem)
    total, joint = options["total_timesteps"], options["protocol"] == "joint"
    if joint and total not in (None, env.episode_steps):
        raise ValueError(
            f"total_timesteps={total}, but with protocol=joint the training of {entry.label} is one episode of "
            f"env.budget={problem.config.budget} updates, which are {env.episode_steps} steps: leave total_timesteps "
            "out, and set env={budget: ...} to the updates that the student is to have."
        )
    total = _steps(env, options)
    agent = make(entry, env, options, options["first_seed"])
    steps = getattr(getattr(agent, "model", None), "learning_starts", 0)
    if total <= steps:
        remedy = "env.budget" if joint else "total_timesteps"
        raise ValueError(
            f"{'' if joint else 'total_timesteps='}{total}{' steps' if joint else ''} ends within the {steps} random "
            f"steps that {entry.name} begins with: nothing would be learned. Set {remedy} above {steps}, or the "
            "agent's option learning_starts lower."
        )
    rollout = getattr(
        getattr(agent, "model", None), "n_steps", getattr(getattr(agent, "config", None), "n_steps", None)
    )
    if joint and isinstance(rollout, int) and (total % rollout or rollout >= total):
        raise ValueError(
            f"The agent {entry.label} learns after every n_steps={rollout} steps, but the one episode of "
            f"protocol=joint has {total}: choose a divisor of {total} that is below it, or another env.budget."
        )


def _while_acting(entry: Entry, total: int, off_policy: bool) -> dict[str, Any]:
    """Defaults with which an agent learns while its one episode of ``total`` steps goes on."""
    from agents.sb3.algorithms import ALGORITHMS

    if entry.name in _WHOLE_EPISODES:
        raise ValueError(
            f"{entry.name} learns from whole episodes, and with protocol=joint there is one, whose student would be "
            "finished before anything is learned. Use protocol=frozen, or another agent."
        )
    if off_policy:
        early = max(1, min(100, total // 10))
        copies = {"target_update_interval": early} if entry.name in ("sb3/dqn", "sb3/qrdqn") else {}
        return {"learning_starts": early, **copies}
    if entry.name == "actor_critic" or (entry.name.startswith("sb3/") and ALGORITHMS[entry.name[4:]].family == "on"):
        parts = [part for part in range(2, min(_ROLLOUT, total - 1) + 1) if total % part == 0]
        if not parts and "n_steps" not in entry.options:
            raise ValueError(
                f"{entry.name} learns from rollouts, and the {total} steps of the one episode of protocol=joint have "
                f"no divisor from 2 to {_ROLLOUT}: choose another env.budget, as {total + 32 - total % 32}."
            )
        return {"n_steps": max(parts)} if parts else {}
    return {}


def _steps(env: TutorVectorEnv, options: Mapping[str, Any]) -> int:
    return env.episode_steps if options["protocol"] == "joint" else int(options["total_timesteps"])


def _device(options: Mapping[str, Any]) -> str:
    from kd_env.models.devices import resolve_device

    return str(resolve_device(str(options["agent_device"])))


def train(entry: Entry, problem: TutorProblem, options: Mapping[str, Any], study: Path, seed: int) -> None:
    """Train an agent and save it with its history, unless it is there."""
    from kd_env.envs.tutor_env import TutorVectorEnv

    folder = study / entry.trained(seed)
    if (folder / "agent.json").is_file():
        return
    (study / JUDGED / f"{folder.name}.json").unlink(missing_ok=True)  # of another training that was here
    env = TutorVectorEnv(options["num_envs"], problem=problem)
    _learn(make(entry, env, options, seed), options["total_timesteps"], folder, options["progress"])


def train_joint(
    entry: Entry,
    problem: TutorProblem,
    judged: TutorProblem,
    options: Mapping[str, Any],
    study: Path,
    seed: int,
    kept: Sequence[int],
) -> None:
    """Train an agent beside the student of ``seed``, judge this student and keep it, unless all that is there.

    A student that is asked for later than its training is made by the same training again.
    """
    from kd_env.evaluation.judging.tutoring import JointEnv

    folder, own = study / entry.trained(seed), [each for each in kept if each == seed]
    if (folder / "agent.json").is_file() and read_judged(study, folder.name, [seed], own) is not None:
        return
    shutil.rmtree(folder, ignore_errors=True)
    env = JointEnv(problem, judged, seed)

    def end() -> None:
        result: TutorResult | None = env.result
        assert result is not None
        if result.diverged[0]:
            print(f"{folder.name}: the student diverged; it is judged as it was at its start.", flush=True)
        keep_students(study, folder.name, env, result, [seed], own, finished=True)
        write_judged(study, folder.name, result, [seed])

    agent = make(entry, env, options, seed)
    _learn(agent, env.episode_steps, folder, options["progress"], lambda: env.result is not None, end)


def _learn(
    agent: Any,
    total: int,
    folder: Path,
    shown: bool,
    over: Callable[[], bool] = lambda: False,
    end: Callable[[], None] = lambda: None,
) -> None:
    """Train, and write history and agent; what is written last says that the training is finished.

    Args:
        agent: to be trained.
        total: environment steps.
        folder: of the agent.
        shown: whether its progress is.
        over: whether there is nothing more to be done, asked after every update of the agent.
        end: called before the agent is written.
    """
    from kd_env.core.files import atomic_write

    bar = shown and sys.stderr.isatty()
    lines = Lines(folder.name, total, shown and not bar)
    print(f"{folder.name}: {total} steps", flush=True)
    history: list[dict[str, float]] = []

    def record(metrics: dict[str, float]) -> bool:
        history.append(metrics)
        words = "".join(f", {key} {metrics[key]:.4g}" for key in ("reward", "return_mean") if key in metrics)
        lines.at(int(metrics["timesteps"]), words)
        return not over()

    agent.learn(total, record, progress_bar=bar)
    atomic_write(
        folder.with_suffix(".jsonl"), "".join(json.dumps(metrics, sort_keys=True) + "\n" for metrics in history)
    )
    end()
    if hasattr(agent, "model"):  # nobody goes on from here, and a buffer is larger than all the rest
        agent.model.replay_buffer = None
    agent.save(folder)


class _Actor:
    """A trained agent as it is judged: it acts as in training, but without exploration by chance alone."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self._deterministic = hasattr(getattr(agent, "model", None), "exploration_rate")

    def predict(self, observation: Any, state: Any = None, episode_start: Any = None) -> tuple[Any, Any]:
        found: tuple[Any, Any] = self._agent.predict(observation, state, episode_start, self._deterministic)
        return found


def actor(folder: Path, options: Mapping[str, Any]) -> _Actor:
    """The agent of a folder, ready to act."""
    from agents import load_agent

    agent: Any = load_agent(folder, device=_device(options))
    if hasattr(agent, "model"):  # SB3 draws from the global generators
        agent.model.set_random_seed(options["first_evaluation_seed"])
    return _Actor(agent)
