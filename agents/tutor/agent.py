"""The tutor of Tutor-KD (Kim et al., EMNLP 2022): a head on the teacher's hidden states that writes tokens into text.

Per text, with the teacher's last hidden states h_i at the masked slots, its distribution p_T and the rewards r_i:

1. Sample a token a_i ~ pi(. | h_i) for every slot; slots are independent. With a sequential environment one slot
   after another, and the head also sees the mean vector of the tokens that are chosen so far in the row.
2. ``L_pg = mean_i -log pi(a_i) (r_i - b_i)`` with ``r_i = teacher_weight R_T,i + student_weight R_S,i``, the rewards
   per token that the environment reports; the baseline b_i is 0 (the paper), a running mean, or learned from h_i.
3. ``L_kl = mean_i KL(p_T(. | X^M) || pi)`` keeps the tutor near what the teacher finds likely.
4. One AdamW step on ``L_pg + kl_coef L_kl - ent_coef H``. The environment's models are not reached: hidden states,
   probabilities and rewards come from it as numbers.

Where the environment lists candidates, the same head chooses among these. ``recipe="paper"`` sets the defaults as
published, ``recipe="modified"`` a learned baseline, clipping and a constant step size; an option that is given is kept.
[code]: read in the released code; the student's part of the table stands in
:mod:`kd_env.decisions.tutor_token.options`.

=====================  ================================================  ===================  ======================
part                   published                                         ``recipe="paper"``   ``"modified"``
=====================  ================================================  ===================  ======================
head                   Linear(H, H), GELU, LayerNorm, Linear(H, V) with  the same             the same
                       bias, drawn anew [code]
weights of the loss    1 L_pg + 1 L_kl [code]                            the same             the same
rewards                R_T + R_S of every token [code]                   the same             the same
baseline               none [code]                                       none                 learned from h_i
entropy bonus          none [code]                                       none                 none
optimiser              AdamW, 5e-4, betas 0.9, 0.999, eps 1e-6, weight   the same             the same
                       decay 0.01 [code]
decay of biases        not stated                                        0.01                 0.01
clipping               none [code]                                       none                 norm 1
schedule               10,000 of a million updates up, then linearly     1% of the updates    constant
                       down [code]                                       up, then down
student                learns beside the tutor and is kept [code]        ``protocol=joint``   the same
=====================  ================================================  ===================  ======================
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.common import storage
from agents.common.base import AnyEnv, Metrics, check_same_replicas, require, reset_seed
from agents.common.learner import Learner
from agents.tutor.choice import Choice, last_infos, sample, to_env
from agents.tutor.config import RECIPES, TutorConfig
from agents.tutor.head import TextSizes, TutorHead, text_sizes


class Tutor(Learner):
    """The tutor as an agent.

    Arguments as in :class:`agents.common.learner.Learner`, for a tutor's environment in the native or candidates view,
    or its :class:`TextSizes`; options are the fields of :class:`TutorConfig`. ``reward_transform`` is applied to the
    rewards ``[M]`` of the M valid tokens of each update; ``schedule=linear`` is spread over the steps of a call of
    ``learn``.

    It learns from whole texts, and reports after each update ``reward`` (mean per token), ``teacher_recognises,
    student_error, policy_loss, kl, entropy, teacher_probability``. Logits that are not finite raise
    ``FloatingPointError``.

    Raises:
        ValueError: as there, or an environment without slots to be filled.
    """

    name = "tutor"
    config: TutorConfig
    config_class: ClassVar[type[TutorConfig]] = TutorConfig
    counters = (*Learner.counters, "updates")

    def __init__(self, env: AnyEnv | TextSizes, **options: Any) -> None:
        recipe = options.get("recipe", "modified")
        require(recipe in RECIPES, "recipe", recipe, "one of " + ", ".join(RECIPES))
        super().__init__(env, **{**RECIPES[recipe], **options})

    def _build(self, env: AnyEnv | TextSizes, init: torch.Generator) -> None:
        c = self.config
        self.sizes = env if isinstance(env, TextSizes) else text_sizes(env)
        self.head = TutorHead(self.sizes, init).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.head.parameters(), lr=c.learning_rate, betas=c.betas, eps=c.eps, weight_decay=c.weight_decay
        )
        self.networks, self.optimizers = {"": self.head}, {"optimizer": self.optimizer}
        self.mean_reward = torch.zeros((), device=self.device)
        self.updates = 0
        self._observation: dict[str, NDArray[Any]] | None = None

    # -- learning

    def _begin(self, total_timesteps: int, anew: bool) -> None:
        env = self.collector.env
        if anew or self._observation is None:
            self._observation, _ = env.reset(seed=reset_seed(self.seed, self.num_timesteps))
        self._steps = self.sizes.slots if self.sizes.sequential else 1  # that fill one text
        self._memory: deque[Choice] = deque(maxlen=self._steps)
        # The learning rate follows all steps, also where a training goes on: it is then what it is without a stop.
        self._planned = -(-(self.num_timesteps + total_timesteps) // (env.num_envs * self._steps))

    def _advance(self, goal: int) -> Metrics | None:
        env = self.collector.env
        choice, actions = self._choose(self._observation, self._teacher(env))
        self._memory.append(choice)
        self._observation, _, terminated, truncated, infos = env.step(actions)
        self.num_timesteps += env.num_envs
        self.num_episodes += int((terminated | truncated).sum())
        readings = last_infos(infos, ("teacher_recognises", "student_error", "teacher_probability"))
        state = last_infos(infos, ("updated", "diverged"))
        # What a student says whose numbers are not finite teaches nothing.
        done = np.asarray(state["updated"] & ~state["diverged"], dtype=bool)
        if not done.any() or len(self._memory) < self._steps:
            return None
        update = self.num_timesteps // (env.num_envs * self._steps) - 1
        rate = self._rate(update, self._planned)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate
        return self._update(list(self._memory), readings, done)

    def _rate(self, update: int, planned: int) -> float:
        """Factor of the step size in update 0, 1, ... of ``planned``: in (0, 1], the student's schedule."""
        if self.config.schedule == "constant":
            return 1.0
        rise = round(self.config.warmup * planned)
        return (update + 1) / rise if update < rise else max(planned - update, 1) / max(planned - rise, 1)

    def _teacher(self, env: Any) -> Tensor | None:
        """The teacher's log-probabilities of every token ``[N, B, P, V]``, where the loss reads them."""
        if self.config.kl_coef == 0:
            return None
        base = env.unwrapped
        many = [one.unwrapped.log_probabilities() for one in base.envs] if hasattr(base, "envs") else None
        found: Tensor = base.log_probabilities() if many is None else torch.cat(many)
        return found.detach().to(self.device, torch.float32)

    def _choose(self, observation: Any, teacher: Tensor | None) -> tuple[Choice, NDArray[np.int64]]:
        state = self._read(observation)
        with torch.no_grad():
            logits, _ = self._logits(state)
        raw = sample(logits, self._learn_generator)
        if teacher is not None:
            teacher = self._of_step(teacher, state)
            if self.sizes.candidates:
                teacher = teacher.gather(-1, state.listed).log_softmax(-1)
        empty = logits.new_empty(0)
        return state._replace(raw=raw, teacher=empty if teacher is None else teacher), to_env(raw)

    def _update(self, texts: list[Choice], readings: dict[str, NDArray[Any]], done: NDArray[np.bool_]) -> Metrics:
        """One gradient step on the texts that are complete."""
        c, keep = self.config, torch.as_tensor(done, device=self.device)
        tokens = {
            name: torch.as_tensor(value[done], dtype=torch.float32, device=self.device)
            for name, value in readings.items()
        }
        earned = c.teacher_weight * tokens["teacher_recognises"] + c.student_weight * tokens["student_error"]
        logits, values = (torch.cat(part, dim=2) for part in zip(*(self._logits(s) for s in texts), strict=True))
        raw, valid = (torch.cat([getattr(s, name) for s in texts], dim=2)[keep] for name in ("raw", "valid"))
        logits, values = logits[keep], values[keep]
        rewards = earned.clone()
        if self.reward_transform is not None:
            rewards[valid] = torch.as_tensor(self._transformed(earned[valid].cpu().numpy()), device=self.device)
        log_policy = logits.log_softmax(-1)
        count = valid.sum().clamp(min=1)

        def mean(values: Tensor) -> Tensor:
            return torch.where(valid, values, 0.0).sum() / count

        baseline = {"none": torch.zeros_like(rewards), "learned": values.detach()}.get(
            c.baseline, self.mean_reward.expand_as(rewards)
        )
        chosen = log_policy.gather(-1, raw[..., None])[..., 0]
        policy_loss = mean(-chosen * (rewards - baseline))
        entropy = mean(-(log_policy.exp() * log_policy).sum(-1))
        loss = policy_loss - c.ent_coef * entropy
        divergence = torch.zeros((), device=self.device)
        if c.kl_coef:
            teacher = torch.cat([s.teacher for s in texts], dim=2)[keep]
            divergence = mean((teacher.exp() * (teacher - log_policy)).sum(-1))
            loss = loss + c.kl_coef * divergence
        if c.baseline == "learned":
            loss = loss + mean((values - rewards).square())
        self.optimizer.zero_grad()
        loss.backward()
        if c.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.head.parameters(), c.max_grad_norm)
        self.optimizer.step()
        self.updates += 1
        self.mean_reward += (mean(rewards) - self.mean_reward) / min(self.updates, 100)
        names = ("teacher_recognises", "student_error", "teacher_probability")
        return {
            "reward": mean(earned).item(),
            **{name: mean(tokens[name]).item() for name in names},
            "policy_loss": policy_loss.item(),
            "kl": divergence.item(),
            "entropy": entropy.item(),
        }

    # -- acting

    def _batch(self, observation: dict[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], bool]:
        single = np.asarray(observation["positions"]).ndim == 1
        return (
            {name: np.asarray(value)[None] for name, value in observation.items()} if single else observation
        ), single

    def _actions(self, batch: dict[str, NDArray[Any]], deterministic: bool) -> NDArray[np.int64]:
        with torch.no_grad():
            logits, _ = self._logits(self._read(batch))
        return to_env(logits.argmax(-1) if deterministic else sample(logits, self._act_generator))

    def _read(self, observation: dict[str, NDArray[Any]]) -> Choice:
        """The observation as tensors; of a sequential environment the next slot alone."""
        s = self.sizes
        count = len(observation["positions"])
        chosen = torch.as_tensor(observation["chosen"], device=self.device).view(count, s.rows, s.slots)
        written = chosen < s.vocab_size
        parts = {
            "hidden": torch.as_tensor(observation["hidden_states"], dtype=torch.float32, device=self.device),
            "listed": torch.as_tensor(observation["candidates"], device=self.device),
            "valid": torch.as_tensor(observation["valid"], device=self.device).bool(),
        }
        shaped = {name: value.view(count, s.rows, s.slots, -1) for name, value in parts.items()}
        empty = torch.empty(0, device=self.device)
        whole = Choice(shaped["hidden"], chosen, written, shaped["listed"], shaped["valid"][..., 0], empty, empty)
        if not s.sequential:
            return whole
        return whole._replace(
            hidden=self._of_step(whole.hidden, whole),
            listed=self._of_step(whole.listed, whole),
            valid=self._of_step(whole.valid[..., None], whole)[..., 0],
        )

    def _of_step(self, values: Tensor, choice: Choice) -> Tensor:
        """``values [N, B, P, ...]`` of this step's slots: all, or the next one of each replica, ``[N, B, 1, ...]``."""
        if not self.sizes.sequential:
            return values
        slot = choice.written[:, 0].sum(-1).clamp(max=self.sizes.slots - 1)
        return values[torch.arange(len(values), device=values.device), :, slot][:, :, None]

    def _logits(self, choice: Choice) -> tuple[Tensor, Tensor]:
        """Logits over the choices ``[N, B, Q, C]`` and values ``[N, B, Q]``."""
        logits, values = self.head(choice.hidden, choice.chosen, choice.written)
        if self.sizes.candidates:
            logits = logits.gather(-1, choice.listed)
        if not torch.isfinite(logits).all():
            raise FloatingPointError(
                f"The tutor's logits are not finite after {self.updates} updates; lower learning_rate "
                f"({self.config.learning_rate}) or max_grad_norm, or look for NaN in the environment's hidden states."
            )
        return logits, values

    # -- saving

    def _interface(self) -> dict[str, Any]:
        return {"sizes": self.sizes._asdict()}

    @classmethod
    def _saved_interface(cls, header: dict[str, Any]) -> TextSizes:
        return TextSizes(**header["sizes"])

    @classmethod
    def _check_fits(cls, saved: TextSizes, env: AnyEnv) -> None:
        """Rows and slots may differ."""
        present = text_sizes(env)
        if saved._replace(rows=present.rows, slots=present.slots) != present:
            raise ValueError(
                f"The tutor was trained for {saved}, the env has {present}; use the same teacher and view."
            )

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        files = super()._tensors()
        files["training"]["mean_reward"] = self.mean_reward
        for name, value in (self._observation or {}).items():
            files["training"][f"observation.{name}"] = torch.from_numpy(np.asarray(value))
        return files

    def _restore(self, folder: Path, header: dict[str, Any], *, force_reset: bool) -> None:
        super()._restore(folder, header, force_reset=force_reset)
        training = storage.read_tensors(folder / "training.safetensors")
        self.mean_reward = training["mean_reward"].to(self.device)
        observation = storage.part(training, "observation.")
        if self._collector is not None and not force_reset and observation:
            check_same_replicas(len(observation["positions"]), self._collector.env.num_envs)
            self._observation = {name: value.numpy().copy() for name, value in observation.items()}
