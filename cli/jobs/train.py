"""The main job: a teacher where one is missing, the training of the agent, the evaluation, the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.jobs.evaluate import evaluate, write_results
from cli.runs import folder as runs
from cli.runs.watch import GapRecorder, Watch, read_history
from cli.settings import probe
from cli.settings.compose import compose
from cli.settings.controls import agent_options
from cli.settings.read import Settings, read_begun, with_ready

if TYPE_CHECKING:
    from kd_env.config.environment import EnvConfig
    from kd_env.mdp.problem import Problem


def train(overrides: Sequence[str], command: str) -> Path:
    """Run the main job; the run folder.

    Args:
        overrides: of the configuration, ``key=value``.
        command: how the job was called, written to ``command.txt``.

    Raises:
        ValueError: anything that does not fit, before any work starts.
    """
    probe.require_own_agents()
    settings = probe.check(read_begun(compose("config", overrides)))
    set_threads(settings.resolved["threads"])
    folder = settings.run_folder
    runs.check_folder(folder, settings.resolved)
    problem = load_problem(settings)
    # Only now: a folder left by options that do not fit would stand in the way of the corrected command.
    runs.open_run(folder, settings.resolved, overrides, command)
    agent, history = learn(settings, problem)
    report = evaluate(settings, problem, agent, folder / runs.POLICY)
    write_results(folder, report, history)
    return folder


def set_threads(count: int | None) -> None:
    """Threads of torch in this process; None leaves torch's own choice."""
    if count is not None:
        import torch

        torch.set_num_threads(count)


def with_teachers(settings: Settings) -> EnvConfig:
    """The environment's options with teachers that exist; missing ones are fine-tuned once, into the cache."""
    from kd_env.finetuning.classifier import finetune

    if settings.cofinetuned is not None:
        from kd_env.finetuning.co_classifier import cofinetune

        names = ", ".join(name for name, _ in settings.teachers)
        print(
            f"Teachers {names}: {settings.cofinetuned.output} (co-fine-tuned where the set is missing)",
            flush=True,
        )
        cofinetune(settings.cofinetuned)
        return settings.env
    found = []
    for name, teacher in settings.teachers:
        if not isinstance(teacher, str):
            print(f"Teacher: {teacher.output} (made from {teacher.name_or_path} where it is missing)", flush=True)
            teacher = str(finetune(teacher))
        found.append((name, teacher))
    return with_ready(settings.env, settings.resolved, found)


def load_problem(settings: Settings) -> Problem:
    """Teacher, data and student, checked down to the dev rows, and a word about them."""
    from kd_env.envs.build import build_problem
    from kd_env.evaluation.judging.protocol import check_dev_lengths

    problem = build_problem(with_teachers(settings))
    check_dev_lengths(problem)
    describe(problem)
    return problem


def describe(problem: Problem) -> None:
    """Print what the problem consists of."""
    facts = problem.summary()
    rows = ", ".join(f"{name} {count}" for name, count in facts["rows"].items())
    print(
        f"Task {facts['task']}: {rows} rows ({facts['dropped_rows']} train rows dropped, content shared with feedback)."
    )
    for teacher in problem.teachers:
        best = " (best on the selection split)" if len(problem.teachers) > 1 and teacher is problem.reference else ""
        print(f"Teacher {teacher.folder}: saw feedback rows: {teacher.saw_feedback}.{best}")
    print(problem.layer_table(), flush=True)


def learn(settings: Settings, problem: Problem) -> tuple[Any, list[dict[str, float]]]:
    """Train the agent, from the last checkpoint where one is resumed; the agent and its log. Rules learn nothing."""
    from agents import agent_kind, load_agent, make_agent
    from kd_env.envs import make_vector

    folder, c = settings.run_folder, settings.resolved
    logs, checkpoint, policy = folder / runs.LOGS, folder / runs.CHECKPOINT, folder / runs.POLICY
    if agent_kind(settings.agent.name) == "rule":
        from kd_env.envs import DistillVectorEnv

        rule = make_agent(settings.agent.name, DistillVectorEnv(1, problem=problem), seed=0, **settings.agent.options)
        rule.save(policy)
        return None, []
    if policy.is_dir():
        print(f"The policy in {policy} is trained already.", flush=True)
        return load_agent(policy), read_history(logs)
    env = GapRecorder(make_vector(problem.config, c["num_envs"], c["vectorization"], problem=problem))
    try:
        agent: Any
        if checkpoint.is_dir():
            agent = load_agent(checkpoint, env, **agent_options(c["control"], c["seed"]))
        else:
            options = {**settings.agent.options, **agent_options(c["control"], c["seed"])}
            agent = make_agent(settings.agent.name, env, seed=c["seed"], device="cpu", **options)
        done, total = int(agent.num_timesteps), 0 if c["control"] == "untrained" else c["total_timesteps"]
        watch = Watch(
            logs,
            env,
            total=total,
            done=done,
            checkpoint_every=c["checkpoint_every"],
            checkpoint=lambda: agent.save(checkpoint),
            shown=c["progress"],
        )
        with watch:
            if done < total:
                agent.learn(total - done, watch, reset_num_timesteps=done == 0)
        runs.write_spaces(folder, env.unwrapped)  # before the policy, so that no policy is without
        agent.save(policy)
    finally:
        env.close()
    return agent, watch.history
