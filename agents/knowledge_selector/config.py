"""Options of :class:`agents.knowledge_selector.agent.KnowledgeSelector`."""

from __future__ import annotations

import dataclasses

from agents.common.base import require
from agents.knowledge_selector.replay import REWARD_NORMALIZATIONS

MODES = ("soft", "hard")
HARD_GRADIENTS = ("soft", "straight_through")


@dataclasses.dataclass(frozen=True)
class KnowledgeSelectorConfig:
    """Options of the knowledge selector. The paper names the parts, but gives none of these values."""

    mode: str = "soft"
    """``soft`` (weights, box view; better in the paper) or ``hard`` (thresholded at 0.5, native view)."""
    act_on_gate: bool = False
    """Soft mode: whether the env's gate is part of the action. The paper has no gate: False keeps it open."""
    use_other_features: bool = True
    """Whether features beside the two [CLS] vectors are part of the state. The paper's state has only the two, but in
    them neither the remaining budget, on which an undiscounted value depends, nor the previous action, on which the
    exploration reward depends. False, or an env with only the two features, gives the paper's state."""
    learning_rate: float = 1e-3
    """Step size of Adam for the actor."""
    critic_learning_rate: float = 1e-3
    """Step size of Adam for the critic."""
    num_critics: int = 1
    """Critics, of which the smallest target value counts. The paper has 1; 2 or more hold down values that the actor
    makes too high by choosing where the critic errs (Fujimoto et al. 2018), which ``gamma=1`` sums over an episode."""
    gamma: float = 1.0
    """Discount; the paper does not give its value. 1 fits episodes of a finite, observed budget: then the return is
    what is reported, and a discount would prefer what lowers the loss early."""
    td_steps: int = 1
    """Phases whose rewards are summed before the target networks stand in. 1 is the TD target of the paper; with more,
    what an early phase did to later ones is learned from what happened and not through as many updates of the critic.
    Sums of actions that the actor has left since are not corrected (Hessel et al. 2018, section 3.5)."""
    tau: float = 0.02
    """Share of the way that the target networks go to the present ones at each update; 1 is no target network."""
    batch_size: int = 64
    """Transitions of one update."""
    replay_size: int = 10_000
    """Transitions that are remembered."""
    updates_per_phase: int = 1
    """Updates of critic and actor for each phase of each replica."""
    warmup_steps: int = 640
    """Env steps over all replicas with random actions and without updates."""
    exploration_noise: float = 0.2
    """Soft mode: standard deviation of the noise on weights in [0, 1], in training; what falls outside is clipped."""
    hold_noise: bool = False
    """Whether noise (in the warm-up the random action) is drawn once an episode for each replica, and held. One phase
    moves the end of a distillation less than the student's own randomness does; a leaning held all along moves it
    visibly."""
    flip_probability: float = 0.1
    """Hard mode: probability with which each choice is turned round, in training."""
    exploration_coef: float = 0.05
    """Weight of the exploration reward, in units of the normalised reward: soft, minus the cosine similarity to the
    previous phase's action; hard, ``1 / sqrt(N(a))``."""
    hard_gradient: str = "soft"
    """Hard mode: how the actor's gradient passes the threshold, ``soft`` or ``straight_through``
    (:func:`agents.knowledge_selector.networks.actor_loss`)."""
    logit_penalty: float = 1e-3
    """Weight of the mean squared logit in the actor's loss: saturated sigmoids would pass no gradient any more."""
    reward_normalization: str = "running"
    """``running``, ``per_step`` or ``none`` (:class:`agents.knowledge_selector.replay.RewardScale`). ``per_step`` makes
    late phases, whose rewards are small, count as much as early ones: that is another goal than the return, and needs
    ``td_steps=1``."""
    normalize_observations: bool = True
    """Whether observations are shifted and scaled by running moments."""
    encoder_size: int = 32
    """Hidden size and outputs of the MLP of each [CLS] vector."""
    share_encoders: bool = False
    """One pair of encoders, trained by the critic's loss alone; False: actor and critic train their own."""
    hidden_sizes: tuple[int, int] = (64, 64)
    """The two hidden layers of the actor and of the critic, which have three layers each."""
    max_grad_norm: float | None = 1.0
    """Norm to which each network's gradient is clipped; None does not clip."""
    squash_state: bool = True
    """Whether the MLP of each [CLS] vector ends in a tanh."""
    n_steps: int | None = None
    """Steps of each replica between learning. None: 1, or one episode with ``td_steps`` above 1 (sums end with what
    was collected) and where a ``reward_transform`` is given, which sees the rewards ``[n_steps, N]``. The number of
    updates does not depend on it."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        require(self.mode in MODES, "mode", self.mode, "one of " + ", ".join(MODES))
        for name in ("learning_rate", "critic_learning_rate"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        norm = self.max_grad_norm
        require(norm is None or norm > 0, "max_grad_norm", norm, "above 0, or None")
        for name in ("batch_size", "updates_per_phase", "encoder_size", "num_critics", "td_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("warmup_steps", "exploration_noise", "exploration_coef", "logit_penalty"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        require(0 <= self.gamma <= 1, "gamma", self.gamma, "in [0, 1]")
        require(0 < self.tau <= 1, "tau", self.tau, "in (0, 1]")
        require(0 <= self.flip_probability <= 0.5, "flip_probability", self.flip_probability, "in [0, 0.5]")
        allowed = f"at least batch_size={self.batch_size}, since a batch is drawn from it"
        require(self.replay_size >= self.batch_size, "replay_size", self.replay_size, allowed)
        how = self.hard_gradient
        require(how in HARD_GRADIENTS, "hard_gradient", how, "one of " + ", ".join(HARD_GRADIENTS))
        scale = self.reward_normalization
        require(
            scale in REWARD_NORMALIZATIONS, "reward_normalization", scale, "one of " + ", ".join(REWARD_NORMALIZATIONS)
        )
        if self.td_steps > 1 and scale == "per_step":
            raise ValueError(
                "reward_normalization='per_step' scales every phase differently, so that rewards of td_steps="
                f"{self.td_steps} phases have no sum; use 'running' or 'none', or td_steps=1."
            )
        sizes_ok = len(self.hidden_sizes) == 2 and all(size >= 1 for size in self.hidden_sizes)
        require(sizes_ok, "hidden_sizes", self.hidden_sizes, "two sizes of at least 1 (the networks have three layers)")
        require(self.n_steps is None or self.n_steps >= 1, "n_steps", self.n_steps, "at least 1, or None")


@dataclasses.dataclass(frozen=True)
class PublishedSelectorConfig(KnowledgeSelectorConfig):
    """Options of :class:`agents.knowledge_selector.published.PublishedSelector`: those that the paper leaves open.

    ``mode``, both learning rates, ``gamma``, ``exploration_coef``, ``hard_gradient``, ``encoder_size``,
    ``hidden_sizes`` and ``share_encoders`` may be chosen; the paper states none of their values. The others stand for
    what the paper does not have, and are refused where they differ.
    """

    use_other_features: bool = False
    tau: float = 1.0
    batch_size: int = 1
    replay_size: int = 1
    warmup_steps: int = 0
    exploration_noise: float = 0.0
    flip_probability: float = 0.0
    logit_penalty: float = 0.0
    reward_normalization: str = "none"
    normalize_observations: bool = False
    share_encoders: bool = True
    max_grad_norm: float | None = None
    squash_state: bool = False

    def __post_init__(self) -> None:
        """Refuse values outside their range, and options that the published agent does not have."""
        super().__post_init__()
        for field in dataclasses.fields(self):
            if field.name not in _OPEN and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"{field.name}={getattr(self, field.name)!r} is no part of the published knowledge selector; leave "
                    "it out, or take the modified one: agent=knowledge_selector."
                )


_OPEN = {
    *("mode", "learning_rate", "critic_learning_rate", "gamma", "exploration_coef", "hard_gradient"),
    *("encoder_size", "hidden_sizes", "share_encoders"),
}
"""Options of the published selector."""
