"""The knowledge selector as published, without what :class:`agents.knowledge_selector.agent.KnowledgeSelector` adds to
it.

KS: C. Wang et al. (2022), "Knowledge selection for distillation" (Findings of EMNLP). Once for each phase, on the
transition of that phase alone:

1. Act: ``a = mu(s)``, without noise. ``s`` is the teacher's and the student's [CLS], each through its own 2-layer MLP.
2. ``r`` is the reward of the phase and the exploration reward: ``-c cos(a, a_previous)`` (soft) or ``c / sqrt(N(a))``
   (hard).
3. Critic: one step on ``(Q(s, a) - r - gamma Q(s', mu(s')))^2``, without target networks; nothing follows the last
   phase. ``s'`` is the observation of the next phase's batch.
4. Actor: one step along the gradient of ``Q(s, mu(s))``.

With N replicas both losses are means over their N transitions. There is no replay, no noise, no warm-up, no second
critic, no scaling of rewards or observations and no clipping.

Not stated in the paper, and ours: Adam and its rates, the discount, sizes and tanh of the networks, the weight of the
exploration reward, that ``a'`` is the present policy's action, that the MLPs of the state are shared and trained by the
critic's loss (``share_encoders``), and how the actor's gradient passes the threshold of hard actions
(``hard_gradient``).
"""

from __future__ import annotations

from typing import ClassVar

from agents.common.base import Metrics
from agents.common.rollout import Rollout
from agents.knowledge_selector.agent import KnowledgeSelector
from agents.knowledge_selector.config import PublishedSelectorConfig
from agents.knowledge_selector.replay import transitions_of


class PublishedSelector(KnowledgeSelector):
    """KS as published; arguments, interface and errors as in
    :class:`agents.knowledge_selector.agent.KnowledgeSelector`.
    """

    name = "knowledge_selector_published"
    config_class: ClassVar[type[PublishedSelectorConfig]] = PublishedSelectorConfig

    def _learn_from(self, rollout: Rollout) -> list[Metrics]:
        """One update for each phase, on its transitions alone."""
        rewards = self._transformed(rollout.rewards)
        bonuses = self.exploration(rollout.actions.numpy(), rollout.step_index)
        phases, count = rollout.rewards.shape
        found = transitions_of(rollout, rewards, bonuses)
        return [self._update(found.part(slice(phase * count, (phase + 1) * count))) for phase in range(phases)]
