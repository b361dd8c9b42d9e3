"""One student as a Gymnasium environment."""

from __future__ import annotations

from typing import Any

from kd_env.envs.run import Run
from kd_env.envs.shells.single import SingleEnv
from kd_env.envs.view import RunView
from kd_env.mdp.problem import Problem


class DistillEnv(RunView, SingleEnv):
    """Distillation of one student, one step at a time.

    ## Description
    One or several teachers are distilled into a fresh student with a fixed budget of updates. At every step the agent
    says how the knowledge terms (``decision=knowledge_selection``), the teachers (``teacher_weighting``) or the rows of
    the batch (``sample_weighting``) count in the next updates; the student is updated, and the change of its loss on
    held-out feedback rows is the reward.

    ## Action Space
    See :class:`kd_env.decisions.knowledge_selection.actions.KnowledgeSelectionActions`: ``native`` (MultiBinary),
    ``discrete`` or ``box``; and :class:`kd_env.decisions.teacher_weighting.actions.TeacherWeightingActions`: ``native``
    (= ``simplex``), ``subset``, ``discrete`` or ``box``; and
    :class:`kd_env.decisions.sample_weighting.actions.SampleWeightingActions`: ``native``, ``subset``, ``discrete`` or
    ``box``.

    ## Observation Space
    A flat float32 box; ``observation_layout`` names each feature's slice.

    ## Starting State
    A fresh student drawn from the seed (or cut from a model, with a fresh head), the first batches drawn.

    ## Reward
    ``gap_closed`` by default: ``(e_before - e_after) / D``, measured after the updates that the action caused; where
    rows are weighed ``loss_drop``, ``e_before - e_after``. ``e`` is the student's cross-entropy after one temperature,
    fitted on the same feedback rows (``gap=calibrated``).

    ## Episode End
    ``terminated``: the budget is spent, or the student diverged. ``truncated``: ``max_episode_steps`` only. Beware:
    ``gymnasium.make(..., max_episode_steps=n)`` keeps that keyword for its own TimeLimit wrapper, of which an
    environment is not told: what is read at the end only (``final_metric``, all rows with ``evaluate_every=0`` or
    ``evaluation_sample``) needs ``DistillEnv(max_episode_steps=n)`` or ``gymnasium.make_vec``, which truncate inside.

    ## Arguments
    The fields of :class:`kd_env.config.environment.EnvConfig`, or ``problem`` (shared) with options of the decision
    process.

    ## Version History
    v0: initial version.
    """

    run: Run

    def __init__(self, problem: Problem | None = None, **options: Any) -> None:
        super().__init__(Run.make(problem, options, 1))
