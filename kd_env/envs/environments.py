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
    (``weighting=sample``); the other terms keep weight 1, but for the one that ``fills`` names: a term without a
    teacher that has what the teachers leave, 1 minus the sum of their weights (at least 0), so that the action is a
    fusion ratio of teachers and labels (TGeo-KD).

    ## Action Space
    For T teachers, with ``weighting=sample`` B times as many components, row by row:

    | view | space | weights |
    | --- | --- | --- |
    | ``native``, ``simplex`` | ``Box(-1, 1, (T,))`` | ``softmax(4 a)`` |
    | ``subset`` | ``MultiBinary(T)`` | 1 / n for each of n chosen teachers |
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


class DivergenceShapingEnv(DistillEnv):
    """At every step the agent says how soft labels are compared: at which temperature, and with which mix of KLs.

    ## Description
    In every term ``soft_label`` the student's distribution is compared with the teacher's at a temperature tau, by
    ``(1 - r) KL(p_T || p_S) + r KL(p_S || p_T)``. The agent says tau (instance temperature: RLKD, Zhang et al. 2024;
    CTKD, Li et al., AAAI 2023), r (AKL, Wu et al., COLING 2025; ARKD, 2026), or both (``shapes``), for a whole step
    (``weighting=batch``) or for each row of the next batch (``weighting=sample``). All terms keep weight 1.

    ## Action Space
    For P shaped numbers, with ``weighting=sample`` B times as many components, row by row:

    | view | space | effect |
    | --- | --- | --- |
    | ``native`` | ``Box(-1, 1, (P,))`` | ``tau = low (high / low)^((a + 1) / 2)``, ``r = (a + 1) / 2`` |
    | ``box`` | ``Box(-1, 1, (P + 1,))`` | the same, and a gate |
    | ``discrete`` | ``Discrete(3^P)`` | each at its least, middle or largest; ``weighting=batch`` only |

    The gate, left out with ``gate=False``, skips the update below -0.5 and else scales it by ``(g + 1) / 2``.

    ## Observation Space
    A flat float32 box with finite bounds: progress, budget, the gap, losses, and how right and how sure student and
    teacher are on the next batch, or on each of its rows.

    ## Rewards
    ``gap_closed`` by default, see :class:`kd_env.envs.env.DistillEnv`.

    ## Starting State, Episode End, Arguments, Version History
    As in :class:`kd_env.envs.env.DistillEnv`.
    """

    def __init__(self, problem: Problem | None = None, **options: Any) -> None:
        super().__init__(problem, **{"decision": "divergence_shaping", **options})


class TutorTokenEnv(DistillEnv):
    """Pre-training distillation in which an agent writes tokens into masked text (Tutor-KD, Kim et al., EMNLP 2022).

    ## Description
    Tokens of a batch are masked and a frozen teacher reads the text. The agent chooses what stands in the masked slots;
    the teacher reads the edited text, and the student learns on it: which tokens are plausible (L_pp), the teacher's
    hidden states and its attention scores. Then the next batch is masked. The defaults are a modified form;
    ``recipe="paper"`` sets those of the released code (:mod:`kd_env.decisions.tutor_token.options` says what differs).

    With ``task`` the rows are those of a task with labels: a masked language model reads the masked row, the agent
    rewrites it, a fine-tuned teacher labels what comes out, and the student learns these labels (``soft_label``). This
    is not in the paper, but its natural extension.

    ## Action Space
    With ``mode=joint`` tokens for all B x P slots, with ``mode=sequential`` for one slot of every row. ``native``: any
    token of the vocabulary; ``candidates``: ranks in the teacher's lists; ``discrete``: one rank for all; ``box``:
    difficulty and share (:mod:`kd_env.decisions.tutor_token.actions`).

    ## Observation Space
    A flat ``Dict`` (:func:`kd_env.decisions.tutor_token.features.parts`): the masked text, its slots, the teacher's
    hidden states and most likely tokens there, and the course of the episode.

    ## Starting State
    A student drawn from the seed (or cut from the teacher), the first batch masked.

    ## Reward
    ``tutor`` by default: the mean over slots of ``teacher_recognises`` (p_T(x|X') - p_T(a|X')) and ``student_error``
    (|m - sigmoid(u)|, of the student before the update); per token in ``info``. With ``mode=sequential`` it comes when
    the last slot is filled. With ``task`` they are of whole rows, the same for all slots of one: the teacher's
    confidence in the gold label of the edited row, and the total variation between the label distributions of student
    and teacher. ``gap_closed`` and ``loss_drop`` compare feedback losses before and after the update.

    ## Episode End
    ``terminated``: the budget of student updates is spent, or the student diverged. ``truncated``:
    ``max_episode_steps`` only.

    ## Arguments
    As in :class:`kd_env.envs.env.DistillEnv`, with the short forms of
    :func:`kd_env.decisions.tutor_token.options.written_out`. Agents find more about text and slots in
    :data:`kd_env.decisions.tutor_token.attributes.ATTRIBUTES`.

    ## Version History
    v0: initial version.
    """

    def __init__(self, problem: Problem | None = None, **options: Any) -> None:
        super().__init__(problem, **{"decision": "tutor_token", **options})
