"""``kd-env tutor``: independent trainings of the tutor, its students beside those of tutors that learn nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cli import probe, runs
from cli.options import flag, names_of, split_options, whole
from kd_env.registry import unknown_name

if TYPE_CHECKING:
    from kd_env.evaluation.tutoring import TutorResult
    from kd_env.tutor.problem import TutorProblem

MEASURES = {
    "reward": "reward",
    "teacher_recognises": "R_T",
    "student_error": "R_S",
    "plausibility": "plausibility",
    "teacher_probability": "p_T(a)",
    "dev_gap_closed": "gap closed (dev)",
}
"""Columns of the table, by field of :class:`kd_env.evaluation.tutoring.TutorResult`."""
_SEED_STEP = 100


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
    from agents.token_rules import TOKEN_RULES, make_token_rule
    from cli.train import set_threads
    from kd_env.evaluation.tutoring import evaluate_tutors
    from kd_env.tutor import TutorConfig, build_tutor_problem

    rules = names_of("rules", options["rules"]) if options["rules"] else []
    for name in rules:
        if name not in TOKEN_RULES:
            raise ValueError(unknown_name("tutor", name, TOKEN_RULES))
    config = TutorConfig.from_kwargs(**options["env"])
    if rules and config.action_view != "native":
        raise ValueError(f"rules={rules} act in the native view, not in {config.action_view!r}; set rules=[].")
    set_threads(options["threads"])
    problem = build_tutor_problem(config)
    seeds = [options["first_seed"] + _SEED_STEP * index for index in range(options["trainings"])]
    _make_folder(folder, options, command)
    trained = {seed: _trained(problem, options, folder / f"tutor-seed{seed}", seed) for seed in seeds}
    first = options["first_evaluation_seed"]
    judged = list(range(first, first + options["evaluation_seeds"]))
    factories: dict[str, Any] = {f"tutor-seed{seed}": lambda env, agent=agent: agent for seed, agent in trained.items()}
    factories |= {name: lambda env, name=name: make_token_rule(name, env, seed=first) for name in rules}
    found = evaluate_tutors(problem, factories, judged, progress=_progress() if options["progress"] else None)
    shown = _samples(problem, next(iter(trained.values())), first, options["samples"])
    _write(folder, options, command, problem, [f"tutor-seed{seed}" for seed in seeds], rules, found, shown)
    return folder


def _check(options: Mapping[str, Any]) -> Path:
    for name, low in {
        **dict.fromkeys(("trainings", "total_timesteps", "num_envs", "evaluation_seeds"), 1),
        **dict.fromkeys(("first_seed", "first_evaluation_seed", "samples"), 0),
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
    name = options["name"]
    if not isinstance(name, str) or name != Path(name).name or name.startswith(".") or not name:
        raise ValueError(f"name={name!r} must be a plain folder name; set runs_dir=... for another place.")
    return Path(str(options["runs_dir"])).expanduser() / name


def _make_folder(folder: Path, options: Mapping[str, Any], command: str) -> None:
    from kd_env.evaluation.report import atomic_write

    kept = {key: value for key, value in options.items() if key in ("env", "agent", "total_timesteps", "num_envs")}
    if folder.exists() and any(folder.iterdir()):
        before = runs.from_yaml((folder / runs.CONFIG).read_text()) if (folder / runs.CONFIG).is_file() else None
        if before is None:
            raise ValueError(f"{folder} exists and is no study of tutors; choose another name with name=...")
        changed = [key for key, value in kept.items() if before.get(key) != value]
        if changed:
            raise ValueError(
                f"{folder} was started with other values of {', '.join(changed)}; choose another name with name=..."
            )
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / runs.CONFIG, runs.to_yaml(dict(options)))
    atomic_write(folder / runs.COMMAND, command + "\n")
    atomic_write(folder / runs.VERSIONS, json.dumps(runs.versions(), indent=2) + "\n")


def _trained(problem: TutorProblem, options: Mapping[str, Any], folder: Path, seed: int) -> Any:
    """A tutor of the folder, or a new one that is saved there with its history."""
    from agents import load_agent, make_agent
    from kd_env.evaluation.report import atomic_write
    from kd_env.tutor import TutorVectorEnv

    env = TutorVectorEnv(options["num_envs"], problem=problem)
    agent: Any
    if (folder / "agent.json").is_file():
        agent = load_agent(folder, env)
        return agent
    agent = make_agent("tutor", env, seed=seed, **options["agent"])
    print(f"{folder.name}:", flush=True)
    history: list[dict[str, float]] = []
    agent.learn(options["total_timesteps"], history.append, progress_bar=options["progress"])
    atomic_write(
        folder.with_suffix(".jsonl"), "".join(json.dumps(metrics, sort_keys=True) + "\n" for metrics in history)
    )
    agent.save(folder)
    return agent


def _progress() -> Any:
    last: list[str] = []

    def show(name: str, step: int, steps: int) -> None:
        if last[-1:] != [name]:
            last.append(name)
            print(f"evaluating {name}", flush=True)

    return show


def _samples(problem: TutorProblem, agent: Any, seed: int, count: int) -> list[dict[str, Any]]:
    """Texts of the first batch of an episode, original and as the tutor edits them."""
    from kd_env.tutor import TutorEnv

    env = TutorEnv(problem=problem)
    observation, _ = env.reset(seed=seed)
    rows = env.run.started().rows[0]
    positions, valid = env.run.started().positions[0], env.run.started().valid[0]
    info: dict[str, Any] = {"updated": False}
    while not info["updated"]:
        observation, _, _, _, info = env.step(agent.predict(observation)[0])
    tokenizer, found = problem.assets.tokenizer, []
    for row in range(min(count, len(rows))):
        ids = problem.host_ids[rows[row]][: problem.train.lengths[rows[row]]]
        before = tokenizer.convert_ids_to_tokens(ids.tolist())
        after = list(before)
        for slot in np.flatnonzero(valid[row]).tolist():
            place = int(positions[row, slot])
            token = tokenizer.convert_ids_to_tokens(int(info["tokens"][row, slot]))
            before[place], after[place] = f"[{before[place]}]", f"[{token}]"
        parts = {name: np.round(info[name][row][valid[row]], 3).tolist() for name in ("plausibility", "student_error")}
        found.append({"original": " ".join(before), "edited": " ".join(after), **parts})
    return found


def _write(
    folder: Path,
    options: Mapping[str, Any],
    command: str,
    problem: TutorProblem,
    trained: Sequence[str],
    rules: Sequence[str],
    found: Mapping[str, TutorResult],
    samples: Sequence[Mapping[str, Any]],
) -> None:
    from kd_env.evaluation.report import atomic_write, show, without_infinities
    from kd_env.evaluation.statistics import nested_difference, nested_interval, t_interval

    def of_tutors(measure: str) -> np.ndarray:
        return np.stack([getattr(found[name], measure) for name in trained])

    columns = ["tutor", "trainings", *MEASURES.values(), "reward: tutor minus it"]
    lines = [["tutor *", str(len(trained)), *(show(nested_interval(of_tutors(m))) for m in MEASURES), ""]]
    differences = {}
    for name in rules:
        difference = nested_difference(of_tutors("reward"), found[name].reward)
        differences[name] = {"interval": difference.interval.__dict__, "p_value": difference.p_value}
        intervals = [show(t_interval(getattr(found[name], measure))) for measure in MEASURES]
        lines.append([name, "rule", *intervals, show(difference.interval, True)])
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *lines))
    units = "trainings" if len(trained) > 1 else "evaluation seeds (one training supports no claim about the tutor)"
    words = (
        f"Every tutor taught the same {options['evaluation_seeds']} fresh students for {problem.config.budget} updates "
        "each; rewards are means per token over all of them, the gap is that of L_pp on dev texts. Brackets: 95% t "
        f"intervals, over trainings for the tutor, over students for the others; differences over {units}. "
        f"{int(sum(result.diverged.sum() for result in found.values()))} students diverged."
    )
    text = [table, "", words, "", "Texts, and as the first tutor edits them:", ""]
    for sample in samples:
        text += [f"- `{sample['original']}`", f"  `{sample['edited']}` (plausibility {sample['plausibility']})"]
    print("\n".join(text))
    results = {
        "command": command,
        "facts": {
            "slots": problem.slots,
            "left_out": problem.assets.left_out,
            "fingerprint": problem.assets.fingerprint,
            "saw_feedback": problem.assets.saw_feedback,
        },
        "tutors": {
            name: {m: getattr(result, m).tolist() for m in (*MEASURES, "dev_loss")} for name, result in found.items()
        },
        "differences": without_infinities(differences),
        "samples": list(samples),
    }
    atomic_write(folder / runs.RESULTS, json.dumps(results, indent=2) + "\n")
    atomic_write(folder / "results.md", "\n".join(text) + "\n")
    print(f"Written to {folder}", flush=True)
