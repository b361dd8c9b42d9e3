"""``kd-env tutor``: independent trainings of agents that write tokens, their students beside those of fixed tutors."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import probe, runs
from cli.options import flag, names_of, split_options, whole
from cli.tutor_report import JUDGED, START, Lines, edited_samples, judge, write_report
from kd_env.registry import unknown_name

if TYPE_CHECKING:
    from kd_env.evaluation.tutoring import Contender
    from kd_env.tutor import TutorVectorEnv
    from kd_env.tutor.problem import TutorProblem

STUDY = "study.json"
"""What the trainings of a study folder have in common, and its agents by label."""
_SEED_STEP = 100
_SAME = ("env", "total_timesteps", "num_envs")
"""Options of a study that all of its trainings share."""


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


def tutor(overrides: Sequence[str], command: str) -> Path:
    """Run the job; the study folder.

    Raises:
        ValueError: anything that does not fit, before any training.
    """
    probe.require_own_agents()
    options, rest = split_options("tutor", overrides)
    for word in rest:
        raise ValueError(unknown_name("option", word.split("=", 1)[0], options))
    folder = _check(options)
    from agents.token_rules import TOKEN_RULES
    from cli.train import set_threads
    from kd_env.tutor import TutorConfig, build_tutor_problem

    rules = names_of("rules", options["rules"]) if options["rules"] else []
    for name in rules:
        if name not in TOKEN_RULES:
            raise ValueError(unknown_name("tutor", name, TOKEN_RULES))
    entries = read_agents(options["agents"], options["agent"], rules)
    config = TutorConfig.from_kwargs(**options["env"])
    set_threads(options["threads"])
    problem = build_tutor_problem(config)
    problems = {entry.label: problem.with_options(**_view(entry, options["env"])) for entry in entries}
    for entry in entries:
        _check_learns(entry, _make(entry, problems[entry.label], options, options["first_seed"]), options)
    _make_folder(folder, options, command, entries, problem.fingerprint)
    seeds = [options["first_seed"] + _SEED_STEP * index for index in range(options["trainings"])]
    try:
        for entry in entries:
            for seed in seeds:
                _train(entry, problems[entry.label], options, folder, seed)
        native = problem.with_options(action_view="native", observation="dict")
        found = judge(_contenders(entries, seeds, rules, problems, native, folder, options), native, folder, options)
    except KeyboardInterrupt:
        print("\nfinished trainings and evaluations are kept; the same command goes on", file=sys.stderr, flush=True)
        raise
    first = entries[0]
    actor = _actor(folder / first.trained(seeds[0]), options)
    shown = edited_samples(problems[first.label], actor, options["first_evaluation_seed"], options["samples"])
    trained = {entry.label: [entry.trained(seed) for seed in seeds] for entry in entries}
    write_report(folder, command, problem, trained, found, shown)
    return folder


def read_agents(given: Any, tutor_options: Mapping[str, Any], rules: Sequence[str] = ()) -> list[Entry]:
    """The agents of a study.

    Args:
        given: ``agents`` of ``configs/tutor.yaml``: names, or mappings with ``name, label, options, env``.
        tutor_options: hyper-parameters of every ``tutor`` among them.
        rules: names that are taken.

    Raises:
        ValueError: an agent or key that does not exist, a rule, or two agents of one label.
    """
    entries = [_entry(item, tutor_options) for item in (given if isinstance(given, list) else [given])]
    if not entries:
        raise ValueError("agents=[] names none; write agents=[tutor], or several as agents=[tutor,sb3/ppo].")
    if tutor_options and all(entry.name != "tutor" for entry in entries):
        raise ValueError(
            f"agent={dict(tutor_options)} are hyper-parameters of tutor, which agents={given} leaves out; write those "
            "of another as agents=[{name: sb3/ppo, options: {...}}]."
        )
    taken = [START, *rules]
    for entry in entries:
        if entry.label in taken or not re.fullmatch(r"\w[\w.-]*", entry.label):
            raise ValueError(
                f"agents={given}: label={entry.label!r} must be a plain folder name that no other tutor has; give one "
                f"as {{name: {entry.name}, label: ...}}."
            )
        taken.append(entry.label)
    return entries


def _entry(item: Any, tutor_options: Mapping[str, Any]) -> Entry:
    from kd_env.evaluation.tutoring import DECISION_OPTIONS

    own = dict(item) if isinstance(item, Mapping) else {"name": item}
    keys = ("name", "label", "options", "env")
    for key in own:
        if key not in keys:
            raise ValueError(unknown_name(f"key of the agent {own.get('name')!r}:", str(key), keys))
    if not isinstance(own.get("name"), str):
        raise ValueError(f"agents holds {item!r}; write a name, or {{name: sb3/ppo, label: ..., options: {{...}}}}.")
    for key in ("options", "env"):
        if not isinstance(own.get(key, {}), Mapping):
            raise ValueError(f'agents holds {item!r}: {key} must hold options by name, as "{key}: {{name: value}}".')
    for key in own.get("env", {}):
        if key not in DECISION_OPTIONS:
            raise ValueError(
                unknown_name(f"env option of the agent {own['name']!r}:", key, DECISION_OPTIONS)
                + " Others would change more than the tutor; set them for all with env={...}."
            )
    preset = _preset(own["name"])
    options = {**preset["options"], **(tutor_options if preset["name"] == "tutor" else {}), **own.get("options", {})}
    label = own.get("label", str(preset.get("label") or preset["name"]).replace("/", "-"))
    return Entry(preset["name"], str(label), options, dict(own.get("env", {})))


def _preset(name: str) -> dict[str, Any]:
    """The section ``agent`` of a preset of the main job, or an agent without one."""
    from agents import agent_kind, agent_names
    from cli.compose import compose
    from cli.presets import groups

    presets = groups()["agent"]
    valid = sorted({*presets, *agent_names()})
    if name not in valid:
        raise ValueError(unknown_name("agent", name, [v for v in valid if not v.startswith("rule/")]))
    found: dict[str, Any] = {"name": name, "options": {}}
    if name in presets:
        found = dict(compose("config", [f"agent={name}"])["agent"])
    if agent_kind(found["name"]) == "rule":
        raise ValueError(f"agents holds the rule {name!r}, which learns nothing; name those for tokens in rules=[...].")
    return found


def _view(entry: Entry, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the decision process for an agent: its own, else the study's, else what its algorithm can take."""
    from agents.sb3 import BOX, DISCRETE, MULTI_DISCRETE, TOKEN_VIEWS, algorithm

    if entry.name == "tutor":
        view = {"action_view": "native", "observation": "dict"}
    else:
        takes = algorithm(entry.name[4:]).actions if entry.name.startswith("sb3/") else (MULTI_DISCRETE,)
        kind = next(kind for kind in (MULTI_DISCRETE, DISCRETE, BOX) if kind in takes)
        view = {"action_view": TOKEN_VIEWS[kind], "observation": "flat"}
    return {**view, **{key: given[key] for key in view if key in given}, **entry.env}


def _check(options: Mapping[str, Any]) -> Path:
    for name, low in {
        **dict.fromkeys(("trainings", "total_timesteps", "num_envs", "evaluation_seeds"), 1),
        **dict.fromkeys(("first_seed", "first_evaluation_seed", "samples", "save_students"), 0),
    }.items():
        whole(name, options[name], low)
    for name in ("env", "agent"):
        if not isinstance(options[name], Mapping):
            raise ValueError(f'{name}={options[name]!r} must hold options by name, as "{name}={{name: value}}".')
    if options["threads"] is not None:
        whole("threads", options["threads"], 1)
    flag("progress", options["progress"])
    last = options["first_seed"] + _SEED_STEP * (options["trainings"] - 1) + options["num_envs"]
    if options["num_envs"] > _SEED_STEP:
        raise ValueError(f"num_envs={options['num_envs']} must be at most {_SEED_STEP}, the distance of two trainings.")
    first = options["first_evaluation_seed"]
    if options["first_seed"] < first + options["evaluation_seeds"] and first < last:
        raise ValueError(
            f"Evaluation seeds {first} to {first + options['evaluation_seeds'] - 1} lie among those of the trainings "
            f"(up to {last - 1}); choose another first_evaluation_seed."
        )
    if options["save_students"] > options["evaluation_seeds"]:
        raise ValueError(
            f"save_students={options['save_students']} is more than the evaluation_seeds={options['evaluation_seeds']} "
            "that are judged."
        )
    name = options["name"]
    if not isinstance(name, str) or name != Path(name).name or name.startswith(".") or not name:
        raise ValueError(f"name={name!r} must be a plain folder name; set runs_dir=... for another place.")
    return Path(str(options["runs_dir"])).expanduser() / name


def _make_folder(
    folder: Path, options: Mapping[str, Any], command: str, entries: Sequence[Entry], fingerprint: str
) -> None:
    """Make the folder, or check that what is in it belongs to the same study.

    Raises:
        ValueError: it was started with other options that its trainings share, or holds trainings of another agent
            under one of the labels.
    """
    from kd_env.evaluation.report import atomic_write

    own = {entry.label: {"name": entry.name, "options": entry.options, "env": entry.env} for entry in entries}
    known: dict[str, Any] = {}
    if folder.exists() and any(folder.iterdir()):
        before = runs.from_yaml((folder / runs.CONFIG).read_text()) if (folder / runs.CONFIG).is_file() else None
        if before is None:
            raise ValueError(f"{folder} exists and is no study of tutors; choose another name with name=...")
        changed = [key for key in _SAME if before.get(key) != options[key]]
        study: dict[str, Any] = {"agents": {"tutor": {"name": "tutor", "options": before.get("agent", {}), "env": {}}}}
        if (folder / STUDY).is_file():
            study = json.loads((folder / STUDY).read_text(encoding="utf-8"))
        known = study["agents"]
        # What is written as JSON comes back without tuples.
        plain = json.loads(json.dumps(own))
        changed += [f"the agent {label}" for label, spec in plain.items() if known.get(label, spec) != spec]
        if study.get("fingerprint", fingerprint) != fingerprint:
            changed.append("text, teacher or student (their content)")
        if changed:
            raise ValueError(
                f"{folder} was started with other values of {', '.join(changed)}; choose another name with name=..."
            )
    folder.mkdir(parents=True, exist_ok=True)
    study = {"fingerprint": fingerprint, "agents": {**known, **own}}
    atomic_write(folder / STUDY, json.dumps(study, indent=2) + "\n")
    atomic_write(folder / runs.CONFIG, runs.to_yaml(dict(options)))
    atomic_write(folder / runs.COMMAND, command + "\n")
    atomic_write(folder / runs.VERSIONS, json.dumps(runs.versions(), indent=2) + "\n")


def _device(options: Mapping[str, Any]) -> str:
    from kd_env.build import resolve_device

    return str(resolve_device(str(options["agent_device"])))


def _make(entry: Entry, problem: TutorProblem, options: Mapping[str, Any], seed: int) -> Any:
    """An agent that has learned nothing, in replicas of its problem."""
    from agents import make_agent
    from agents.sb3 import ALGORITHMS
    from kd_env.tutor import TutorVectorEnv

    own: dict[str, Any] = dict(entry.options)
    if entry.name.startswith("sb3/") and ALGORITHMS[entry.name[4:]].family == "off":
        # Observations are long: room for SB3's 100,000 of them may be more than there is memory.
        own.setdefault("buffer_size", min(100_000, options["total_timesteps"]))
    env = TutorVectorEnv(options["num_envs"], problem=problem)
    try:
        return make_agent(entry.name, env, seed=seed, device=_device(options), **own)
    except ValueError as error:
        raise ValueError(f"The agent {entry.label}: {error}") from error


def _check_learns(entry: Entry, agent: Any, options: Mapping[str, Any]) -> None:
    steps = getattr(getattr(agent, "model", None), "learning_starts", 0)
    if options["total_timesteps"] <= steps:
        raise ValueError(
            f"total_timesteps={options['total_timesteps']} ends within the {steps} random steps that {entry.name} "
            f"begins with: nothing would be learned. Set total_timesteps above {steps}, or the agent's option "
            "learning_starts lower."
        )


def _train(entry: Entry, problem: TutorProblem, options: Mapping[str, Any], study: Path, seed: int) -> None:
    """Train an agent and save it with its history, unless it is there."""
    from kd_env.evaluation.report import atomic_write

    folder = study / entry.trained(seed)
    if (folder / "agent.json").is_file():
        return
    (study / JUDGED / f"{folder.name}.json").unlink(missing_ok=True)  # of another training that was here
    agent = _make(entry, problem, options, seed)
    total, shown = options["total_timesteps"], options["progress"]
    bar = shown and sys.stderr.isatty()
    lines = Lines(folder.name, total, shown and not bar)
    print(f"{folder.name}: {total} steps", flush=True)
    history: list[dict[str, float]] = []

    def record(metrics: dict[str, float]) -> None:
        history.append(metrics)
        words = "".join(f", {key} {metrics[key]:.4g}" for key in ("reward", "return_mean") if key in metrics)
        lines.at(int(metrics["timesteps"]), words)

    agent.learn(total, record, progress_bar=bar)
    atomic_write(
        folder.with_suffix(".jsonl"), "".join(json.dumps(metrics, sort_keys=True) + "\n" for metrics in history)
    )
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


def _actor(folder: Path, options: Mapping[str, Any]) -> _Actor:
    from agents import load_agent

    agent: Any = load_agent(folder, device=_device(options))
    if hasattr(agent, "model"):  # SB3 draws from the global generators
        agent.model.set_random_seed(options["first_evaluation_seed"])
    return _Actor(agent)


def _contenders(
    entries: Sequence[Entry],
    seeds: Sequence[int],
    rules: Sequence[str],
    problems: Mapping[str, TutorProblem],
    native: TutorProblem,
    folder: Path,
    options: Mapping[str, Any],
) -> dict[str, Contender]:
    """Trainings and rules by name, each in the view in which it acts."""
    from agents.token_rules import make_token_rule
    from kd_env.evaluation.tutoring import Contender

    def trained(name: str) -> Callable[[TutorVectorEnv], Any]:
        return lambda env: _actor(folder / name, options)

    def rule(name: str) -> Callable[[TutorVectorEnv], Any]:
        return lambda env: make_token_rule(name, env, seed=options["first_evaluation_seed"])

    found = {
        name: Contender(trained(name), problems[entry.label]) for entry in entries for name in map(entry.trained, seeds)
    }
    return {**found, **{name: Contender(rule(name), native) for name in rules}}
