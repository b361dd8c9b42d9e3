"""The main job: a teacher where one is missing, the training of the agent, the evaluation, the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.jobs.judge import evaluate, write_results
from cli.jobs.prepare import load_problem, set_threads
from cli.runs import folder as runs
from cli.runs.watch import GapRecorder, Watch, read_history
from cli.settings import probe
from cli.settings.compose import compose
from cli.settings.controls import agent_options
from cli.settings.read import Settings, read_begun

if TYPE_CHECKING:
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
