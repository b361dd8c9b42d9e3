"""The environments of labelled tasks, each with what is decided in it; all are :class:`kd_env.envs.env.DistillEnv`."""

from __future__ import annotations

from typing import Any

from kd_env.envs.env import DistillEnv
from kd_env.mdp.problem import Problem


class KnowledgeSelectionEnv(DistillEnv):
    """At every step the agent says which knowledge terms the student learns from (KS; Wang et al. 2022).

    ## Description
    A fine-tuned teacher is distilled into a fresh student with a fixed budget of updates. Knowledge terms, hard labels
    among them, compare the student with labels or with the teacher; the agent weighs them for the next updates.

    ## Action Space
    | view | space | effect |
    | --- | --- | --- |
    | ``native`` | ``MultiBinary(K)`` | weight 1 for the chosen terms, 0 for the others |
    | ``discrete`` | ``Discrete(K + 2)`` | none, each term alone, all |
    | ``box`` | ``Box(-1, 1, (K + 1,))`` | weights ``(a + 1) / 2``, and a gate |

    The gate, left out with ``gate=False``, skips the update below -0.5 and else scales it by ``(g + 1) / 2``.

    ## Observation Space
    A flat float32 box with finite bounds: progress, budget, learning rate, losses of the terms, the gap, entropies,
    agreement, the metric on feedback rows and the last action. ``features`` names others, KS's [CLS] among them.

    ## Rewards
    ``gap_closed`` by default, see :class:`kd_env.envs.env.DistillEnv`.

    ## Starting State, Episode End, Arguments, Version History
    As in :class:`kd_env.envs.env.DistillEnv`.
    """

    def __init__(self, problem: Problem | None = None, **options: Any) -> None:
        super().__init__(problem, **{"decision": "knowledge_selection", **options})


class TeacherWeightingEnv(DistillEnv):
    """At every step the agent says how much each of several teachers counts (MT-BERT, RL-KD and their neighbours).

    ## Description
    Several fine-tuned teachers are distilled into one fresh student. The agent weighs the terms named by ``weighs``
    (soft labels) teacher by teacher, for a whole step (``weighting=batch``) or for each row of the next batch
    (``weighting=sample``); the other terms keep weight 1.

    ## Action Space
    For T teachers, with ``weighting=sample`` B times as many components, row by row:

    | view | space | weights |
    | --- | --- | --- |
    | ``native``, ``simplex`` | ``Box(-1, 1, (T,))`` | ``softmax(4 a)`` |
    | ``subset`` | ``MultiBinary(T)`` | 1 / |S| for the chosen S |
    | ``discrete`` | ``Discrete(T + 2)`` | none, each teacher alone, all; ``weighting=batch`` only |
    | ``box`` | ``Box(-1, 1, (T + 1,))`` | ``(a + 1) / (2 T)`` and a gate |

    ## Observation Space
    A flat float32 box with finite bounds: progress, budget, the gap, and what teachers and student say about the next
    batch, or about each of its rows.

    ## Rewards
    ``gap_closed`` by default; RL-KD's own by name, see :mod:`kd_env.mdp.rewards`.

    ## Starting State, Episode End, Arguments, Version History
    As in :class:`kd_env.envs.env.DistillEnv`; without ``teachers`` the packaged set of the embedded task.
    """

    def __init__(self, problem: Problem | None = None, **options: Any) -> None:
        super().__init__(problem, **{"decision": "teacher_weighting", **options})


class SampleWeightingEnv(DistillEnv):
    """At every step the agent says how much each row of the next batch counts (LGTM and its neighbours).

    ## Description
    The weight of a row multiplies all its losses in the student's update, or with ``teacher_updates=weighted`` in that
    of a teacher that learns beside the student.

    ## Action Space
    | view | space | weights |
    | --- | --- | --- |
    | ``native`` | ``Box(-1, 1, (B,))`` | ``a + 1`` for each row |
    | ``subset`` | ``MultiBinary(B)`` | kept rows share the weight |
    | ``discrete`` | ``Discrete(6)`` | none, all, the lowest or highest half or quarter in the ``score`` |
    | ``box`` | ``Box(-1, 1, (2,))`` | share that is kept, and temperature of the ``score`` |

    ## Observation Space
    A flat float32 box with finite bounds: progress, budget, the gap, and what student and teacher say about each row.

    ## Rewards
    ``loss_drop`` by default: how far the step lowered the student's loss on feedback rows.

    ## Starting State, Episode End, Arguments, Version History
    As in :class:`kd_env.envs.env.DistillEnv`; one update a step, since the action weighs the rows of one batch.
    """

    def __init__(self, problem: Problem | None = None, **options: Any) -> None:
        super().__init__(problem, **{"decision": "sample_weighting", **options})
