"""Rules that say how soft labels are compared: plain KD, random, annealed temperatures, CTKD, AKL.

They read ``decision.given_names`` (what the action says), ``decision.effect``, ``batch_size`` (B) and ``next_logits()``
of ``env.unwrapped``. They give the effect itself, so that they do the same in every view. With ``weighting=batch`` a
rule says one number a step, with ``weighting=sample`` one for each row.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.common.base import AnyEnv, require
from agents.rules.base import Rule
from agents.rules.teachers.base import Floats
from agents.rules.teachers.by_loss import softmax

Observations = NDArray[np.float32]
Chosen = tuple[dict[str, Floats], Any]
TEMPERATURE, REVERSE, PROGRESS = "soft_temperature", "reverse_share", "progress"


class DivergenceRule(Rule):
    """Base of rules that shape soft labels; arguments as in :class:`agents.rules.base.Rule`.

    Where the actions say what a rule does not choose, its option ``temperature`` (2 without one) or ``reverse_share``
    (0 without one) stands there.
    """

    decision = "divergence_shaping"
    views = ("native", "box", "discrete")
    looks_at_feedback = False
    needs_shape: ClassVar[str] = ""
    """What the rule chooses; an env whose actions do not say it is refused."""

    def __init__(self, env: AnyEnv, *, seed: int = 0, **options: Any) -> None:
        super().__init__(env, seed=seed, **options)
        self._plain = {TEMPERATURE: options.get("temperature", 2.0), REVERSE: options.get("reverse_share", 0.0)}
        temperature, share = self._plain.values()
        self.require_temperatures(temperature=temperature)
        require(0.0 <= share <= 1.0, "reverse_share", share, "in [0, 1]")
        self.shapes: tuple[str, ...] = tuple(self.base.decision.given_names)
        if self.needs_shape and self.needs_shape not in self.shapes:
            raise ValueError(
                f"The rule {self.name!r} chooses {self.needs_shape}, but the actions of the env say "
                f"{', '.join(self.shapes)}; make the env with shapes=[{self.needs_shape}] or both."
            )

    def require_temperatures(self, **values: float) -> None:
        """Refuse options at which the soft labels mean nothing, by name."""
        low, high = self.base.decision.temperatures
        for name, value in values.items():
            require(low <= value <= high, name, value, f"from {low:g} to {high:g}")

    def next_logits(self, observations: Observations) -> tuple[Floats, Floats]:
        """Of students and teachers on the next batch, ``[N, B, C]``; refused where the env has another N."""
        student, teacher = self.base.next_logits()
        self.refuse_other_replicas(len(student), observations)
        return student, teacher

    @property
    def by_row(self) -> bool:
        """Whether each row of the batch has numbers of its own."""
        return bool(self.base.weighting == "sample")

    @abstractmethod
    def chosen(self, observations: Observations, memory: Any, starts: NDArray[np.bool_]) -> Chosen:
        """What the rule chooses, by name ``[N]`` or ``[N, B]``, and its memory."""

    def act(self, observations: Observations, memory: Any, starts: NDArray[np.bool_]) -> tuple[Any, Any]:
        """The effect of what is chosen, and of the plain values of the rest."""
        chosen, memory = self.chosen(observations, memory, starts)
        count = len(observations)
        shape = (count, self.base.batch_size) if self.by_row else (count,)
        said = {}
        for name in self.shapes:
            values = np.asarray(chosen.get(name, self._plain[name]), dtype=np.float64)
            said[name] = np.broadcast_to(values[:, None] if values.ndim == 1 and self.by_row else values, shape)
        return self.base.decision.effect(said), memory


class PlainKD(DivergenceRule):
    """Soft labels at one temperature, by the forward KL (Hinton et al., 2015): what every other shaping has to beat.

    Args:
        env: the environment.
        seed: unused.
        temperature: from 0.05 to 100, as all temperatures here.
        reverse_share: of the reverse KL, in [0, 1].
    """

    name = "plain_kd"
    chooses = False

    def __init__(self, env: AnyEnv, *, seed: int = 0, temperature: float = 2.0, reverse_share: float = 0.0) -> None:
        super().__init__(env, seed=seed, temperature=temperature, reverse_share=reverse_share)

    def chosen(self, observations: Observations, memory: Any, starts: NDArray[np.bool_]) -> Chosen:
        """Nothing."""
        return {}, None


class RandomDivergence(DivergenceRule):
    """Numbers drawn anew in each step and, by row, for each row: uniform raw actions of the native view."""

    name = "random_divergence"
    chooses = False

    def __init__(self, env: AnyEnv, *, seed: int = 0) -> None:
        super().__init__(env, seed=seed)

    def chosen(self, observations: Observations, memory: Any, starts: NDArray[np.bool_]) -> Chosen:
        """A draw a replica, each from its own generator."""
        count, rows = len(self.shapes), self.base.batch_size if self.by_row else 1
        raw = np.stack([self.generator(i).uniform(-1.0, 1.0, (rows, count)) for i in range(len(observations))])
        low, high = self.base.decision.actions.limits
        shares = (raw + 1.0) / 2.0
        values = {TEMPERATURE: low * (high / low) ** shares, REVERSE: shares}
        drawn = {name: values[name][..., place] for place, name in enumerate(self.shapes)}
        return {name: value if self.by_row else value[:, 0] for name, value in drawn.items()}, None


class TemperatureAnnealing(DivergenceRule):
    """A temperature that falls in a straight line, from the first step on.

    After Annealing KD (Jafari et al., EACL 2021), which lowers it in whole stages and scales the logits of the teacher
    alone; that form is the rule ``stages``.

    Args:
        env: the environment.
        seed: unused.
        start: temperature of the first step.
        end: where the line is when the budget is spent, one step behind the last.
        reverse_share: where the action says it.
    """

    name = "temperature_annealing"
    needs_features = (PROGRESS,)
    needs_shape = TEMPERATURE

    def __init__(self, env: AnyEnv, *, seed: int = 0, start: float = 8.0, end: float = 1.0, reverse_share: float = 0.0):
        super().__init__(env, seed=seed, start=start, end=end, reverse_share=reverse_share)
        self.require_temperatures(start=start, end=end)

    def chosen(self, observations: Observations, memory: Any, starts: NDArray[np.bool_]) -> Chosen:
        """By progress."""
        start, end = self.options["start"], self.options["end"]
        return {TEMPERATURE: start + (end - start) * self.progress(observations).astype(np.float64)}, None


class _Learned(NamedTuple):
    """CTKD's parameter."""

    raw: Floats  # [N]
    momentum: Floats  # [N]


class CTKD(DivergenceRule):
    """CTKD (Li et al., AAAI 2023): one temperature that learns to make the distillation loss larger, ever more so.

    As in the authors' code, of which the global form is released: ``tau = low + width sigmoid(w)`` with ``w = 1`` at
    first, and SGD with momentum and weight decay on ``w`` along the reversed gradient of ``alpha tau^2 KL``, times
    ``lambda = (1 - cos(pi min(t / ramp, 1))) / 2``. There t are epochs; here it is the share of the budget, and the
    default ramp is the published 10 of 240 epochs. Their rate is that of the student, which falls in steps; here it
    stays. The KL is that of the batch before the update that the temperature is for, from the mean of the teachers'
    logits; the student's own step is the environment's.

    Args:
        env: the environment.
        seed: unused.
        low: least temperature (paper 1).
        width: of its range (paper 20).
        learning_rate: of ``w`` (code 0.05, of about 190,000 updates; a short budget wants more).
        momentum: in [0, 1) (code 0.9).
        weight_decay: of ``w`` (code 5e-4).
        alpha: weight of the distillation loss (code 0.9).
        ramp: share of the budget until lambda is 1, in (0, 1].
        reverse_share: where the action says it.
    """

    name = "ctkd"
    needs_features = (PROGRESS,)
    needs_shape = TEMPERATURE

    def __init__(
        self,
        env: AnyEnv,
        *,
        seed: int = 0,
        low: float = 1.0,
        width: float = 20.0,
        learning_rate: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        alpha: float = 0.9,
        ramp: float = 10 / 240,
        reverse_share: float = 0.0,
    ) -> None:
        for name, value in (("width", width), ("learning_rate", learning_rate), ("alpha", alpha)):
            require(0.0 < value < float("inf"), name, value, "above 0 and finite")
        require(0.0 <= momentum < 1.0, "momentum", momentum, "in [0, 1)")
        require(0.0 <= weight_decay < float("inf"), "weight_decay", weight_decay, "at least 0 and finite")
        require(0.0 < ramp <= 1.0, "ramp", ramp, "in (0, 1]")
        own = {"low": low, "width": width, "learning_rate": learning_rate, "momentum": momentum}
        rest = {"weight_decay": weight_decay, "alpha": alpha, "ramp": ramp}
        super().__init__(env, seed=seed, reverse_share=reverse_share, **own, **rest)
        self.require_temperatures(low=low, **{"low + width": low + width})

    def chosen(self, observations: Observations, memory: Any, starts: NDArray[np.bool_]) -> Chosen:
        """The temperature as it is, and what its gradient on the next batch makes of it for the step after."""
        o, count = self.options, len(observations)
        fresh = _Learned(np.ones(count), np.zeros(count))
        raw, momentum = (
            fresh if memory is None else (np.where(starts, f, m) for f, m in zip(fresh, memory, strict=True))
        )
        gate = 1.0 / (1.0 + np.exp(-raw))
        temperature = o["low"] + o["width"] * gate
        student, teacher = self.next_logits(observations)
        slope = loss_slope(student, teacher, temperature) * o["width"] * gate * (1.0 - gate)
        strength = (1.0 - np.cos(np.pi * np.minimum(self.progress(observations) / o["ramp"], 1.0))) / 2.0
        gradient = np.nan_to_num(-strength * o["alpha"] * slope) + o["weight_decay"] * raw
        momentum = o["momentum"] * momentum + gradient
        return {TEMPERATURE: temperature}, _Learned(raw - o["learning_rate"] * momentum, momentum)


class AKL(DivergenceRule):
    """AKL (Wu et al., COLING 2025): forward KL for the head of the teacher's distribution, reverse KL for its tail.

    The head are its most likely classes up to a probability of ``mu`` together, the first one always. ``r`` is the
    student's absolute error in the tail, over that in both. In two classes both errors are the same, so that it is
    1/2 there: the rule has a say from three classes on. As in the authors' code the head ends before the class that
    would exceed ``mu``. With ``weighting=batch``, ours, r is the mean of the rows. The paper has temperature 1.
    Of several teachers the mean of their logits is read.

    Args:
        env: the environment.
        seed: unused.
        mu: in (0, 1) (paper 0.5).
        temperature: where the action says it.
    """

    name = "akl"
    needs_shape = REVERSE

    def __init__(self, env: AnyEnv, *, seed: int = 0, mu: float = 0.5, temperature: float = 1.0) -> None:
        require(0.0 < mu < 1.0, "mu", mu, "in (0, 1)")
        super().__init__(env, seed=seed, mu=mu, temperature=temperature)

    def chosen(self, observations: Observations, memory: Any, starts: NDArray[np.bool_]) -> Chosen:
        """By the student's errors on the next batch."""
        student, teacher = self.next_logits(observations)
        share = tail_share(student, teacher, self.options["mu"])
        return {REVERSE: share if self.by_row else share.mean(-1)}, None


def loss_slope(student: Floats, teacher: Floats, temperature: Floats) -> Floats:
    """Derivative by tau ``[N]`` of the mean over rows of ``tau^2 KL(p_T || p_S)`` of logits ``[N, B, C]``, ``[N]``."""
    tau = temperature[:, None, None]
    p, q = softmax(teacher / tau), softmax(student / tau)
    away = np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(q, 1e-300))
    # tau^2 times the derivatives of log p and log q
    moved_p = (p * teacher).sum(-1, keepdims=True) - teacher
    moved_q = (q * student).sum(-1, keepdims=True) - student
    return np.asarray((p * (2.0 * tau * away + moved_p * away - moved_q)).sum(-1).mean(-1))


def tail_share(student: Floats, teacher: Floats, mu: float) -> Floats:
    """The student's error in the tail of the teacher's distribution, over that in head and tail; 1/2 without any.

    Args:
        student: logits ``[..., C]``.
        teacher: logits ``[..., C]``.
        mu: probability of the head at most, beside its first class.

    Returns:
        ``[...]`` in [0, 1].
    """
    p, q = softmax(teacher), softmax(student)
    order = np.argsort(-p, axis=-1, kind="stable")
    errors = np.abs(np.take_along_axis(p, order, -1) - np.take_along_axis(q, order, -1))
    tail = np.cumsum(np.take_along_axis(p, order, -1), axis=-1) > mu
    tail[..., 0] = False
    total = errors.sum(-1)
    in_tail = np.where(tail, errors, 0.0).sum(-1)
    return np.asarray(np.divide(in_tail, total, out=np.full(total.shape, 0.5), where=total > 0))


DIVERGENCE_RULES: tuple[type[Rule], ...] = (PlainKD, RandomDivergence, TemperatureAnnealing, CTKD, AKL)
