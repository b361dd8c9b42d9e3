"""Tutor-KD as published: sums over layers, head, dropout, optimiser, schedules, masks, against a plain PyTorch loop."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents import make_agent
from agents.tutor.agent import Tutor
from kd_env.config.optimizer import OptimizerConfig
from kd_env.config.student import StudentConfig
from kd_env.core.types import Batch, EncoderFacts, ModelOutput
from kd_env.data.loading import get_task
from kd_env.data.masking import enough_slots
from kd_env.decisions.options import env_config
from kd_env.envs import DistillVectorEnv
from kd_env.envs.build import build_problem
from kd_env.envs.environments import TutorTokenEnv
from kd_env.knowledge import TermInputs, TermSpec, build_terms, term_entries
from kd_env.models.layermap import layer_pairs
from kd_env.models.loading import load_classifier
from kd_env.models.pretrained import load_encoder

WIDE = {"hidden_size": 16, "num_attention_heads": 2, "dropout": 0.0}
"""A student of the teacher's width."""


def own(tiny_text: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The tiny text without the options that the recipe is about."""
    return {**{k: v for k, v in tiny_text.items() if k not in ("slots", "optimizer")}, "precision": "fp64", **options}


@pytest.fixture(scope="module")
def paper(tiny_text: dict[str, Any]) -> Any:
    """The published recipe on the tiny text, without the dropout that no other program repeats."""
    return build_problem(env_config(decision="tutor_token", **own(tiny_text, recipe="paper", student=WIDE, budget=40)))


def test_layers_are_summed_six_of_them() -> None:
    """A 6-layer student of 12 layers: the hidden loss has 7 pairs, attention 6."""
    generator, pairs = torch.Generator().manual_seed(0), layer_pairs("uniform", 6, 12)
    mask = torch.arange(5) < torch.tensor([5, 3])[:, None]

    def output(depth: int) -> ModelOutput:
        states, scores = (
            {layer: torch.randn(shape, generator=generator) for layer in range(depth + 1)}
            for shape in ((2, 5, 4), (2, 3, 5, 5))
        )
        empty: dict[int, torch.Tensor] = {}
        return ModelOutput(torch.zeros(2, 5, 1), empty, states, scores, empty, empty, empty)

    student, teacher = output(6), output(12)
    facts = EncoderFacts(6, 4, 3, 1, 10), EncoderFacts(12, 4, 3, 1, 10)
    ids = torch.zeros(2, 5, dtype=torch.long)
    inputs = TermInputs(student, teacher, Batch(ids, mask, ids, ids[:, 0]), {})
    for name, count in (("hidden_states", 7), ("attention", 6)):
        mean, total = (
            build_terms([{"name": name, "reduction": how}], TermSpec(*facts, pairs, regression=False, text=True))[0]
            for how in ("mean", "sum")
        )
        torch.testing.assert_close(total.loss(inputs), count * mean.loss(inputs))


def test_the_environment_sums_where_it_is_told(tiny_text: dict[str, Any]) -> None:
    options = {**tiny_text, "student": {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 6}}
    pairs = ((0, 0), (1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2))
    problem = build_problem(env_config(decision="tutor_token", **options, layer_map=pairs))
    losses = {}
    for how in ("mean", "sum"):
        envs = DistillVectorEnv(2, problem=problem, layer_reduction=how)
        envs.reset(seed=0)
        losses[how] = envs.step(np.full((2, 8), 9))[4]["losses"]
    np.testing.assert_allclose(losses["sum"], losses["mean"] * np.array([1, 7, 6]), rtol=1e-5)


class Loop:
    """The published recipe as one would write it with Hugging Face and torch.optim."""

    def __init__(self, env: TutorTokenEnv) -> None:
        from transformers import BertForTokenClassification

        problem, state = env.problem, env.run.started()
        self.problem, self.updates = problem, 0
        self.teacher = copy.deepcopy(problem.reader.model.module)
        config = copy.deepcopy(problem.student.module.config)
        self.student = BertForTokenClassification(config).double().eval()
        width = config.hidden_size
        head = {"transform": nn.Linear(width, width), "gelu": nn.GELU()}
        head |= {"norm": nn.LayerNorm(width, eps=config.layer_norm_eps), "score": nn.Linear(width, 1)}
        self.student.classifier = nn.Sequential(dict_of(head)).double()
        self.student.dropout = nn.Identity()
        values = {name: p[0] for name, p in state.params.items() if not name.startswith("projections.")}
        assert set(dict(self.student.named_parameters())) == set(values)
        self.student.load_state_dict({**self.student.state_dict(), **values})
        self.projection = state.params["projections.hidden_states.shared"][0].clone().requires_grad_(True)
        self.everything = [*self.student.parameters(), self.projection]
        groups = [
            {"params": [p for p in self.everything if (p.dim() > 1) == matrix], "weight_decay": decay}
            for matrix, decay in ((True, 0.01), (False, 0.0))
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.999), eps=1e-6)

    def step(self, env: TutorTokenEnv, tokens: np.ndarray) -> list[float]:
        """Losses of one update."""
        problem, state = self.problem, env.run.started()
        batch, valid = problem.train.gather(state.next_rows[0, 0]), torch.as_tensor(state.decision_state.valid[0])
        mask, places = batch.attention_mask, torch.as_tensor(state.decision_state.positions[0])
        original = batch.input_ids.gather(-1, places)
        chosen = torch.where(valid, torch.as_tensor(tokens).view(places.shape), original)
        text = batch.input_ids.scatter(-1, places, chosen)
        before = env.log_probabilities()[0].exp()
        options = {"attention_mask": mask.long(), "output_hidden_states": True}
        with torch.no_grad():
            taught = self.teacher(text, **options)
            taught_scores = scores_of(self.teacher.bert, taught.hidden_states)
        out = self.student(text, **options)
        labels = torch.ones(mask.shape, dtype=torch.float64)
        for row, slot in np.argwhere(state.decision_state.valid[0]):
            m = before[row, slot, chosen[row, slot]] / before[row, slot, original[row, slot]]
            labels[row, places[row, slot]] = min(1.0, float(m))
        plausibility = F.binary_cross_entropy_with_logits(out.logits[..., 0][mask], labels[mask])
        distance = torch.zeros(2, dtype=torch.float64)
        own_scores = scores_of(self.student.bert, out.hidden_states)
        for layer, other in problem.reference.pairs:
            gap = (out.hidden_states[layer] @ self.projection.T - taught.hidden_states[other]).square().mean(-1)
            distance[0] += torch.stack([each[real].mean() for each, real in zip(gap, mask, strict=True)]).mean()
            if layer:
                square = (own_scores[layer - 1] - taught_scores[other - 1]).square().mean(1)
                rows = [each[real][:, real].mean() for each, real in zip(square, mask, strict=True)]
                distance[1] += torch.stack(rows).mean()
        self.optimizer.zero_grad()
        (25 * plausibility + 0.5 * distance.sum()).backward()
        assert torch.nn.utils.get_total_norm([p.grad for p in self.everything if p.grad is not None]) > 1
        for group in self.optimizer.param_groups:
            group["lr"] = 5e-4 * (40 - self.updates) / 40  # 1% of 40 updates: no warm-up
        self.optimizer.step()
        self.updates += 1
        return [float(value) for value in (plausibility.detach(), *distance.detach())]


def dict_of(modules: dict[str, nn.Module]) -> Any:
    from collections import OrderedDict

    return OrderedDict(modules)


def scores_of(model: Any, hidden: Any) -> list[torch.Tensor]:
    """Raw attention scores of every block."""
    found = []
    for block, states in zip(model.encoder.layer, hidden, strict=False):
        attention = block.attention.self
        shape = (*states.shape[:2], attention.num_attention_heads, attention.attention_head_size)
        query, key = (part(states).view(shape).transpose(1, 2) for part in (attention.query, attention.key))
        found.append(query @ key.transpose(-1, -2) / attention.attention_head_size**0.5)
    return found


def test_the_recipe_is_a_plain_loop_with_the_published_values(paper: Any) -> None:
    """Sums, head, eps, no clipping where it would be active, schedule, and a projection at equal widths."""
    env = TutorTokenEnv(problem=paper)
    env.reset(seed=0)
    loop = Loop(env)
    rng = np.random.default_rng(0)
    for _ in range(4):
        action = rng.integers(5, 45, env.action_space.shape)
        losses = loop.step(env, action)
        np.testing.assert_allclose(env.step(action)[4]["losses"], losses, rtol=1e-5)
    for name, p in env.run.started().params.items():
        mine = loop.projection if name.startswith("projections.") else loop.student.get_parameter(name)
        torch.testing.assert_close(p[0], mine.detach(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "change",
    [{"eps": 1e-8}, {"max_grad_norm": 1.0}, {"warmup": 0.2}, {"learning_rate": 7e-3}],
    ids=lambda change: next(iter(change)),
)
def test_every_value_of_the_optimiser_reaches_the_student(change: dict[str, Any], paper: Any) -> None:
    def after(**options: Any) -> dict[str, torch.Tensor]:
        env = TutorTokenEnv(problem=paper, optimizer=options)
        env.reset(seed=0)
        for _ in range(3):
            env.step(np.full(env.action_space.shape, 9))
        return env.run.started().params

    plain, changed = after(), after(**change)
    assert any(not torch.allclose(p, changed[name], rtol=1e-9, atol=1e-12) for name, p in plain.items())


def test_a_projection_at_equal_widths_changes_the_loss(paper: Any) -> None:
    found = {}
    for kind in ("auto", "always"):
        env = TutorTokenEnv(problem=paper, projection=kind)
        env.reset(seed=0)
        assert ("projections.hidden_states.shared" in env.run.started().params) == (kind == "always")
        found[kind] = env.step(np.full(env.action_space.shape, 9))[4]["losses"]
    assert found["auto"][1] != found["always"][1] and found["auto"][0] == found["always"][0]


def test_without_dropout_published_students_are_stacked_like_others(paper: Any) -> None:
    envs, single = DistillVectorEnv(2, problem=paper), TutorTokenEnv(problem=paper)
    envs.reset(seed=[3, 4])
    single.reset(seed=4)
    for _ in range(2):
        envs.step(np.full(envs.action_space.shape, 9))
        single.step(np.full(single.action_space.shape, 9))
    for name, p in single.run.started().params.items():
        torch.testing.assert_close(envs.run.started().params[name][1], p[0], rtol=1e-9, atol=1e-10)


def test_explicit_options_win_and_configurations_come_back(tiny_text: dict[str, Any]) -> None:
    config = env_config(decision="tutor_token", recipe="paper")
    o = config.optimizer_config
    assert (o.learning_rate, o.betas, o.eps, o.weight_decay) == (5e-4, (0.9, 0.999), 1e-6, 0.01)
    assert o.max_grad_norm is None and config.student_config.dropout == 0.1
    assert (config.masking, config.mask_rate, config.slots) == ("bernoulli", 0.15, "all")
    entries = {entry.name: entry for entry in term_entries(config.terms)}
    weights = {name: entry.weight for name, entry in entries.items()}
    assert weights == {"plausibility": 25.0, "hidden_states": 0.5, "attention": 0.5}
    assert entries["hidden_states"].options == {"shared": True, "reduction": "sum", "projection": "always"}
    assert env_config(**config.to_dict()) == config
    changed = env_config(
        decision="tutor_token",
        recipe="paper",
        masking="fixed",
        slots=3,
        student={"dropout": 0.0},
        optimizer={"eps": 1e-7},
        projection="auto",
    )
    hidden = term_entries(changed.terms)[1].options
    assert (changed.masking, changed.slots, hidden["projection"], hidden["reduction"]) == ("fixed", 3, "auto", "sum")
    assert env_config(**changed.to_dict()) == changed
    assert changed.student_config == StudentConfig(num_attention_heads=4)
    assert changed.optimizer_config == dataclasses.replace(o, eps=1e-7)
    whole = env_config(decision="tutor_token", recipe="paper", optimizer=OptimizerConfig(0.1), student=StudentConfig())
    assert whole.optimizer_config == OptimizerConfig(0.1) and whole.student_config == StudentConfig()
    made = gym.make("kd_env/TutorToken-v0", **own(tiny_text, recipe="paper", student=WIDE)).unwrapped
    assert isinstance(made, TutorTokenEnv) and term_entries(made.problem.config.terms)[2].options == {
        "reduction": "sum"
    }
    for name, value in (("recipe", "paper"), ("student_head", "mlm")):
        with pytest.raises(ValueError, match=f"{name}='{value}' is of Tutor-KD as published"):
            env_config(decision="tutor_token", task="toy", **{name: value})


def test_every_masked_position_is_overwritten(paper: Any) -> None:
    """None is dropped, also of rows that have many more than 15%."""
    assert paper.reader.slots == enough_slots(int(paper.reader.ordinary.sum(1).max()))
    env = TutorTokenEnv(problem=paper)
    env.reset(seed=0)
    counts = []
    for _ in range(12):
        counts.append(int(env.run.started().decision_state.valid.sum()))
        info = env.step(np.full(env.action_space.shape, 9))[4]
        assert info["dropped_slots"] == 0
    assert 0.05 < np.sum(counts) / (12 * paper.reader.ordinary.sum(1).mean() * paper.config.batch_size) < 0.3


@pytest.mark.parametrize(("longest", "rate"), [(1, 0.15), (9, 0.15), (126, 0.15), (40, 0.5)])
def test_enough_slots_are_the_least_that_are(longest: int, rate: float) -> None:
    from scipy.stats import binom

    found = enough_slots(longest, rate)
    assert binom.sf(found, longest, rate) <= 1e-9
    assert found == 1 or binom.sf(found - 1, longest, rate) > 1e-9


def test_dropout_is_a_function_of_the_seed_and_of_single_students(tiny_text: dict[str, Any]) -> None:
    options = own(tiny_text, recipe="paper", student={**WIDE, "dropout": 0.1})
    with_dropout, without = (
        build_problem(env_config(decision="tutor_token", **{**options, "student": student}))
        for student in (options["student"], WIDE)
    )

    def episode(problem: Any) -> tuple[list[float], np.ndarray]:
        env = TutorTokenEnv(problem=problem)
        losses = [env.reset(seed=3)[1]["loss"]]
        for _ in range(3):
            info = env.step(np.full(env.action_space.shape, 9))[4]
            losses.append(info["loss"])
        return losses, info["losses"]

    torch.manual_seed(0)
    first = episode(with_dropout)
    torch.manual_seed(1)
    again, plain = episode(with_dropout), episode(without)
    assert first[0] == again[0] and np.array_equal(first[1], again[1])
    assert first[0][0] == plain[0][0], "evaluation is without dropout"
    assert first[0][1:] != plain[0][1:]
    with pytest.raises(ValueError, match=r"student.dropout=0.1 needs single environments"):
        DistillVectorEnv(2, problem=with_dropout)


@pytest.mark.parametrize("embedding_size", [None, 4], ids=["bert", "electra"])
def test_the_head_is_dense_gelu_norm_linear_and_stays_out_of_classifiers(
    embedding_size: int | None, tiny_text: dict[str, Any], tmp_path: Path
) -> None:
    student = {**WIDE, "dropout": 0.1, "embedding_size": embedding_size}
    env = TutorTokenEnv(**own(tiny_text, recipe="paper", student=student))
    env.reset(seed=0)
    head, hidden = env.problem.student.module.classifier, torch.randn(2, 3, 16, dtype=torch.float64)
    plain = head.score(F.layer_norm(F.gelu(head.transform(hidden)), (16,), head.norm.weight, head.norm.bias, 1e-12))
    torch.testing.assert_close(head(hidden), plain)
    drawn = env.run.started().params
    assert {name for name in drawn if name.startswith("classifier.")} == {
        f"classifier.{part}.{kind}" for part in ("transform", "norm", "score") for kind in ("weight", "bias")
    }
    assert 0.01 < float(drawn["classifier.transform.weight"].std()) < 0.03
    env.save_student(tmp_path / "student")
    assert not load_classifier(str(tmp_path / "student"), get_task("toy", None, None), None, 0).had_head
    assert load_encoder(str(tmp_path / "student"), num_labels=3).config.num_labels == 3


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Step sizes of the tutor's updates."""
    found: list[float] = []
    update = Tutor._update

    def spied(self: Tutor, *args: Any) -> Any:
        found.append(self.optimizer.param_groups[0]["lr"])
        return update(self, *args)

    monkeypatch.setattr(Tutor, "_update", spied)
    yield found


@pytest.mark.parametrize("mode", ["joint", "sequential"])
def test_the_tutor_has_the_students_schedule(mode: str, tutor_problem: Any, rates: list[float]) -> None:
    env = DistillVectorEnv(2, problem=tutor_problem, mode=mode)
    steps = 2 * 10 * (1 if mode == "joint" else env.slots)
    make_agent("tutor", env, seed=0).learn(steps)
    assert rates == [5e-4] * 10
    rates.clear()
    make_agent("tutor", env, seed=0, recipe="paper", warmup=0.2).learn(steps)
    np.testing.assert_allclose(rates, 5e-4 * np.array([1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]))


def test_the_tutor_as_published(tutor_problem: Any, tmp_path: Path) -> None:
    agent = Tutor(DistillVectorEnv(1, problem=tutor_problem), recipe="paper", kl_coef=0.5)
    c = agent.config
    assert (c.baseline, c.max_grad_norm, c.schedule, c.warmup, c.kl_coef) == ("none", None, "linear", 0.01, 0.5)
    assert Tutor(DistillVectorEnv(1, problem=tutor_problem)).config.kl_coef == 1.0
    group = agent.optimizer.param_groups[0]
    assert (group["eps"], group["betas"], group["weight_decay"]) == (1e-6, (0.9, 0.999), 0.01)
    agent.learn(4).save(tmp_path / "tutor")
    assert Tutor.load(tmp_path / "tutor").config == c
    norms = {}
    for limit in (None, 1e-3):
        clipped = Tutor(DistillVectorEnv(1, problem=tutor_problem), max_grad_norm=limit).learn(1)
        norms[limit] = float(nn.utils.get_total_norm([p.grad for p in clipped.head.parameters() if p.grad is not None]))
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-2) and norms[None] > 2e-3
    for options, message in (
        ({"recipe": "papr"}, "recipe='papr'"),
        ({"max_grad_norm": 0.0}, "or None, which does not clip"),
        ({"schedule": "cosine"}, "constant, linear"),
        ({"warmup": 2.0}, "warmup=2.0"),
        ({"betas": (1.0, 0.9)}, "betas"),
    ):
        with pytest.raises(ValueError, match=message):
            Tutor(DistillVectorEnv(1, problem=tutor_problem), **options)  # type: ignore[arg-type]
