"""The main job: a teacher where one is missing, the training of the agent, the evaluation, the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from cli.errors import going_on
from cli.jobs import ranks
from cli.jobs.estimates.said import say
from cli.jobs.kinds.base import Job
from cli.jobs.kinds.catalog import job_of
from cli.jobs.kinds.judge import write_results
from cli.jobs.kinds.paused import judge_pause
from cli.jobs.kinds.prepare import agent_device, set_threads
from cli.runs import folder as runs
from cli.runs import origin
from cli.runs.checkpoints import Checkpoints, environment, saved_steps, steps_made
from cli.runs.diagnosis import Diagnosis
from cli.runs.loggers.catalog import open_loggers
from cli.runs.loggers.content import show_report
from cli.runs.rows import check_rows, write_rows
from cli.runs.watch import Recorder, Watch, read_history
from cli.settings import probe
from cli.settings.compose import compose
from cli.settings.controls import agent_options
from cli.settings.kinds.base import Settings
from cli.settings.read import check, read_begun


def train(overrides: Sequence[str], command: str) -> Path:
    """Run the main job; the run folder.

    Args:
        overrides: of the configuration, ``key=value``.
        command: how the job was called, written to ``command.txt``.

    Raises:
        ValueError: anything that does not fit, before any work starts.
    """
    probe.require_own_agents()
    settings = check(read_begun(compose("config", overrides)))
    set_threads(settings.resolved["threads"])
    if not ranks.several():
        return _run(settings, overrides, command)
    with ranks.joined(settings) as own:
        _run(own, overrides, command)
    return settings.run_folder


def _run(settings: Settings[Any], overrides: Sequence[str], command: str) -> Path:
    folder, job = settings.run_folder, job_of(settings)
    with runs.writing(folder):
        runs.check_folder(folder, settings.resolved)
        _check_pause(settings.resolved["pause"]["at"], folder)
        origin.check_source(settings.resolved, folder)
        begin = time.perf_counter()
        problem = job.load_problem()
        built = time.perf_counter() - begin
        job.check_training(problem)
        _check_origin(job, problem)
        hashes = job.row_hashes(problem)
        check_rows(folder, hashes, "train another run with name=...")
        # Only now: a folder left by options that do not fit would stand in the way of the corrected command.
        runs.open_run(folder, settings.resolved, overrides, command)
        write_rows(folder, hashes)
        with going_on(lambda: kept(folder)):
            if not ranks.several():  # a probe takes as many steps as there is time for, and ranks must take the same
                say(job, problem, built, steps_made(folder))
            learned = learn(job, problem)
            if learned is None:
                checkpoint = Checkpoints(folder / runs.CHECKPOINT).newest()
                assert checkpoint is not None, "a pause writes one"
                judge_pause(job, problem, checkpoint)
                return folder
            agent, history = learned
            report = job.evaluate(problem, agent, folder / runs.POLICY)
            likeliest = bool(settings.resolved["evaluation"]["deterministic"])
            appendix = job.appendix(problem, folder / runs.POLICY)
            write_results(folder, report, appendix, history, likeliest, command)
            with closing(open_loggers(settings.resolved, folder, judged=True)) as logger:
                show_report(logger, report, folder, int(history[-1]["timesteps"]) if history else 0)
    return folder


def _check_pause(at: int | None, folder: Path) -> None:
    """Refuse a pause behind the end of a training; raises ``ValueError``."""
    trained = saved_steps(folder / runs.POLICY)
    if at is not None and trained is not None and trained >= at:
        raise ValueError(
            f"pause.at={at}, but the training of {folder} has come to its end at step {trained}: leave pause.at out."
        )


def _check_origin(job: Job[Any, Any], problem: Any) -> None:
    """Refuse a policy to begin with that would see or say other things here; raises ``ValueError``."""
    folder, resolved = job.settings.run_folder, job.settings.resolved
    if origin.source_of(resolved) is None or steps_made(folder):
        return
    from kd_env.envs import DistillVectorEnv

    origin.check_fits(resolved, DistillVectorEnv(1, problem=problem))


def kept(folder: Path) -> str:
    """What a run that is stopped keeps, and how it goes on."""
    if (folder / runs.POLICY).is_dir():
        what = "the trained policy"
    else:
        steps = Checkpoints(folder / runs.CHECKPOINT).steps()
        what = "no checkpoint yet" if steps is None else f"the checkpoint of step {steps}"
    return f"{folder} keeps {what}; the same command with resume=true goes on."


def learn(job: Job[Any, Any], problem: Any) -> tuple[Any, list[dict[str, float]]] | None:
    """Train the agent, from the last checkpoint where one is resumed; the agent and its log. Rules learn nothing.

    None where the training pauses (``pause.at``): then its checkpoint is all that there is.
    """
    from agents import agent_kind, load_agent, make_agent

    settings = job.settings
    folder, c = settings.run_folder, settings.resolved
    logs, policy, checkpoints = folder / runs.LOGS, folder / runs.POLICY, Checkpoints(folder / runs.CHECKPOINT)
    if agent_kind(settings.agent.name) == "rule":
        rule = make_agent(settings.agent.name, job.rule_env(problem), seed=0, **settings.agent.options)
        rule.save(policy)
        return None, []
    device = agent_device(c)
    trained, wanted = saved_steps(policy), 0 if c["control"] == "untrained" else c["total_timesteps"] or 0
    if policy.is_dir() and not (job.goes_on and trained is not None and trained < wanted):
        print(f"The policy in {policy} is trained already.", flush=True)
        try:
            return load_agent(policy, device=device), read_history(logs)
        except ValueError as error:
            raise ValueError(f"{error} Without {policy} the training goes on from its last checkpoint.") from error
    (folder / runs.RESULTS).unlink(missing_ok=True)  # of fewer steps
    distillation: Any = job.training_env(problem)
    env = Recorder(distillation, Diagnosis(problem, distillation.num_envs))
    try:
        agent: Any
        checkpoint = checkpoints.newest()
        if trained is not None and trained > (saved_steps(checkpoint) or 0):
            checkpoint = policy
        if checkpoint is not None:
            state = environment(checkpoint)
            if state.is_dir():
                distillation.load_state(state)
            # Without a state (a finished training that goes on, a checkpoint of an earlier version) new episodes begin.
            options = {"force_reset": not state.is_dir(), **agent_options(c["control"], c["seed"])}
            agent = load_agent(checkpoint, env, device=device, **options)
        else:
            agent = make_agent(settings.agent.name, env, seed=c["seed"], device=device, **job.agent_options(env))
            source = origin.source_of(c)
            if source is not None:
                origin.begin(agent, source, env, folder)

        def keep() -> None:
            if not job.is_over(env):
                checkpoints.save(agent, int(agent.num_timesteps), distillation)

        done, total = int(agent.num_timesteps), 0 if c["control"] == "untrained" else job.total_steps(env)
        watch = Watch(
            logs,
            env,
            open_loggers(c, folder, done=done),
            total=total,
            done=done,
            checkpoint_every=c["checkpoint_every"],
            checkpoint=keep,
            pause_at=c["pause"]["at"],
            shown=c["progress"],
        )

        def after_update(metrics: dict[str, float]) -> bool:
            return watch(metrics) and not job.is_over(env)

        with watch:
            if done < total and not watch.paused:
                agent.learn(total - done, after_update, reset_num_timesteps=done == 0)
        if watch.paused:
            return None
        runs.write_spaces(folder, env.unwrapped)  # before the policy, so that no policy is without
        job.end_training(agent, env)
        agent.save(policy)
    finally:
        env.close()
    return agent, watch.history
