"""``kd-env tutor``: independent trainings of agents that write tokens, their students beside those of fixed tutors."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.jobs.tutor_report import DEV_ROWS, START, edited_samples, judge, read_judged, write_report
from cli.jobs.tutor_train import Entry, actor, check_learns, train, train_joint
from cli.runs import folder as runs
from cli.settings import probe
from cli.settings.options import flag, names_of, split_options, whole
from kd_env.core.registry import unknown_name

if TYPE_CHECKING:
    from kd_env.decisions.tutor_token.problem import TutorProblem
    from kd_env.envs.tutor_env import TutorVectorEnv
    from kd_env.evaluation.judging.tutoring import Contender

STUDY = "study.json"
"""What the trainings of a study folder have in common, and its agents by label."""
_SEED_STEP = 100
_SAME = ("protocol", "env", "total_timesteps", "num_envs")
"""Options of a study that all of its trainings share."""
PROTOCOLS = ("joint", "frozen")
_FROZEN = {"total_timesteps": 3200, "num_envs": 4, "evaluation_seeds": 10, "save_students": 0}
"""Values of ``protocol=frozen`` where an option is null."""
_JOINT_BUDGET = 800
"""Updates of the student of ``protocol=joint`` where none are given: as many updates of the tutor as ``frozen`` has."""


def tutor(overrides: Sequence[str], command: str) -> Path:
    """Run the job; the study folder.

    Raises:
        ValueError: anything that does not fit, before any training.
    """
    probe.require_own_agents()
    options, rest = split_options("tutor", overrides)
    for word in rest:
        raise ValueError(unknown_name("option", word.split("=", 1)[0], options))
    options = _resolved(options)
    joint = options["protocol"] == "joint"
    folder = _check(options)
    from agents.rules.tutor_token import TOKEN_RULES
    from cli.jobs.prepare import set_threads
    from kd_env.decisions.tutor_token.corpus import build_tutor_problem
    from kd_env.decisions.tutor_token.options import TutorConfig
    from kd_env.decisions.tutor_token.process import with_tutor_options
    from kd_env.evaluation.judging.tutor_dev import with_dev_rows

    rules = names_of("rules", options["rules"]) if options["rules"] else []
    valid = [rule.name for rule in TOKEN_RULES]
    for name in rules:
        if name not in valid:
            raise ValueError(unknown_name("tutor", name, valid))
    entries = read_agents(options["agents"], options["agent"], rules, options["recipe"])
    config = TutorConfig.from_kwargs(**options["env"])
    set_threads(options["threads"])
    problem = build_tutor_problem(config)
    problems = {entry.label: with_tutor_options(problem, **_view(entry, options["env"])) for entry in entries}
    for entry in entries:
        check_learns(entry, problems[entry.label], options)
    _make_folder(folder, options, command, entries, problem.fingerprint)
    seeds = [options["first_seed"] + _SEED_STEP * index for index in range(options["trainings"])]
    judged_on = seeds
    if not joint:
        first = options["first_evaluation_seed"]
        judged_on = list(range(first, first + options["evaluation_seeds"]))
    kept = judged_on[: options["save_students"]]
    native = with_tutor_options(problem, action_view="native", observation="dict")
    try:
        judged = with_dev_rows(problem, DEV_ROWS) if joint else problem
        for entry in entries:
            for seed in seeds:
                if joint:
                    train_joint(entry, problems[entry.label], judged, options, folder, seed, kept)
                else:
                    train(entry, problems[entry.label], options, folder, seed)
        tutors = _contenders([] if joint else entries, seeds, rules, problems, native, folder, options)
        found = judge(tutors, native, folder, judged_on, kept, options["progress"])
    except KeyboardInterrupt:
        print("\nfinished trainings and evaluations are kept; the same command goes on", file=sys.stderr, flush=True)
        raise
    if joint:
        names = {entry.trained(seed): seed for entry in entries for seed in seeds}
        own = {name: read_judged(folder, name, [seed], []) for name, seed in names.items()}
        found = {**{name: result for name, result in own.items() if result is not None}, **found}
    shown_by = entries[0]
    shown_actor = actor(folder / shown_by.trained(seeds[0]), options)
    shown = edited_samples(problems[shown_by.label], shown_actor, options["first_evaluation_seed"], options["samples"])
    trained = {entry.label: [entry.trained(seed) for seed in seeds] for entry in entries}
    write_report(folder, command, problem, trained, found, shown, joint)
    return folder


def _resolved(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the values that depend on protocol and recipe; those that the protocol ignores are refused."""
    from kd_env.decisions.tutor_token.options import RECIPES

    for name, valid in (("protocol", PROTOCOLS), ("recipe", tuple(RECIPES))):
        if options[name] not in valid:
            raise ValueError(unknown_name(name, str(options[name]), valid))
    if not isinstance(options["env"], Mapping):
        raise ValueError(f'env={options["env"]!r} must hold options by name, as "env={{name: value}}".')
    env = dict(options["env"])
    if options["recipe"] != "modified":
        env = {"recipe": options["recipe"], **env}
    if options["protocol"] == "frozen":
        given = {key: value for key, value in options.items() if value is not None or key not in _FROZEN}
        return {**_FROZEN, **given, "env": env}
    if not options["agents"]:
        raise ValueError(
            f"protocol=joint judges the students beside which agents learn, and agents={options['agents']} trains "
            "none: an evaluation without training has no such student. Name agents, as agents=[tutor]; students that "
            "are saved already are judged by kd-env evaluate students=..."
        )
    if options["evaluation_seeds"] is not None:
        raise ValueError(
            f"evaluation_seeds={options['evaluation_seeds']} are fresh students of protocol=frozen; with "
            "protocol=joint every training has one student, which is judged: set trainings, and leave it out."
        )
    if options["num_envs"] not in (None, 1):
        raise ValueError(
            f"num_envs={options['num_envs']}: with protocol=joint an agent learns beside one student; leave num_envs "
            "out, or set protocol=frozen."
        )
    if env.get("max_episode_steps") is not None:
        raise ValueError(
            f"env.max_episode_steps={env['max_episode_steps']} would cut the one episode of protocol=joint; leave it "
            "out and set env.budget."
        )
    kept = options["trainings"] if options["save_students"] is None else options["save_students"]
    return {**options, "num_envs": 1, "save_students": kept, "env": {"budget": _JOINT_BUDGET, **env}}


def read_agents(
    given: Any, tutor_options: Mapping[str, Any], rules: Sequence[str] = (), recipe: str = "modified"
) -> list[Entry]:
    """The agents of a study.

    Args:
        given: ``agents`` of ``configs/tutor.yaml``: names, or mappings with ``name, label, options, env``.
        tutor_options: hyper-parameters of every ``tutor`` among them.
        rules: names that are taken.
        recipe: of every ``tutor`` that says nothing else.

    Raises:
        ValueError: an agent or key that does not exist, a rule, or two agents of one label.
    """
    own = tutor_options if recipe == "modified" else {"recipe": recipe, **tutor_options}
    entries = [_entry(item, own) for item in (given if isinstance(given, list) else [given])]
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
    from kd_env.evaluation.judging.tutoring import DECISION_OPTIONS

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
    from cli.settings.compose import compose
    from cli.settings.presets import groups

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
    from agents.sb3.algorithms import BOX, DISCRETE, MULTI_DISCRETE, TOKEN_VIEWS, algorithm

    if entry.name == "tutor":
        view = {"action_view": "native", "observation": "dict"}
    else:
        takes = algorithm(entry.name[4:]).actions if entry.name.startswith("sb3/") else (MULTI_DISCRETE,)
        kind = next(kind for kind in (MULTI_DISCRETE, DISCRETE, BOX) if kind in takes)
        view = {"action_view": TOKEN_VIEWS[kind], "observation": "flat"}
    return {**view, **{key: given[key] for key in view if key in given}, **entry.env}


def _check(options: Mapping[str, Any]) -> Path:
    joint = options["protocol"] == "joint"
    for name, low in {
        **dict.fromkeys(("trainings", "total_timesteps", "num_envs", "evaluation_seeds"), 1),
        **dict.fromkeys(("first_seed", "first_evaluation_seed", "samples", "save_students"), 0),
    }.items():
        if not (joint and name in ("total_timesteps", "evaluation_seeds") and options[name] is None):
            whole(name, options[name], low)
    if not isinstance(options["agent"], Mapping):
        raise ValueError(f'agent={options["agent"]!r} must hold options by name, as "agent={{name: value}}".')
    if options["threads"] is not None:
        whole("threads", options["threads"], 1)
    flag("progress", options["progress"])
    last = options["first_seed"] + _SEED_STEP * (options["trainings"] - 1) + options["num_envs"]
    if options["num_envs"] > _SEED_STEP:
        raise ValueError(f"num_envs={options['num_envs']} must be at most {_SEED_STEP}, the distance of two trainings.")
    first, judged = options["first_evaluation_seed"], options["trainings" if joint else "evaluation_seeds"]
    if not joint and options["first_seed"] < first + judged and first < last:
        raise ValueError(
            f"Evaluation seeds {first} to {first + options['evaluation_seeds'] - 1} lie among those of the trainings "
            f"(up to {last - 1}); choose another first_evaluation_seed."
        )
    if options["save_students"] > judged:
        raise ValueError(
            f"save_students={options['save_students']} is more than the "
            f"{'trainings' if joint else 'evaluation_seeds'}={judged} that are judged."
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
    from kd_env.core.files import atomic_write

    own = {entry.label: {"name": entry.name, "options": entry.options, "env": entry.env} for entry in entries}
    known: dict[str, Any] = {}
    if folder.exists() and any(folder.iterdir()):
        before = runs.from_yaml((folder / runs.CONFIG).read_text()) if (folder / runs.CONFIG).is_file() else None
        if before is None:
            raise ValueError(f"{folder} exists and is no study of tutors; choose another name with name=...")
        before.setdefault("protocol", "frozen")  # the only one of earlier versions
        joint = options["protocol"] == "joint"  # its steps are those of the budget, named or not
        changed = [key for key in _SAME if before.get(key) != options[key] and not (joint and key == "total_timesteps")]
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
    from agents import make_rule
    from kd_env.evaluation.judging.tutoring import Contender

    def trained(name: str) -> Callable[[TutorVectorEnv], Any]:
        return lambda env: actor(folder / name, options)

    def rule(name: str) -> Callable[[TutorVectorEnv], Any]:
        return lambda env: make_rule(name, env, seed=options["first_evaluation_seed"])

    found = {
        name: Contender(trained(name), problems[entry.label]) for entry in entries for name in map(entry.trained, seeds)
    }
    return {**found, **{name: Contender(rule(name), native) for name in rules}}
