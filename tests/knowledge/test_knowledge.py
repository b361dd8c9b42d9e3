"""Every registered knowledge term: limits, slow versions, golden values, padding, gradients, vmap, bad options."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kd_env.core.types import Batch, EncoderFacts, ModelOutput, Signal
from kd_env.knowledge import TERMS, Term, TermInputs, TermSpec, build_terms, relations, term_entries
from kd_env.knowledge.attentions import attention_distance, relation_divergence, resplit_heads
from kd_env.knowledge.features import cls_distance, hidden_state_distance
from kd_env.knowledge.labels import cross_entropy, dist_loss, soft_label_divergence
from kd_env.knowledge.relations import by_tokens, fsp_distance, fsp_matrix, relational_distance
from kd_env.models.layermap import layer_pairs

LENGTHS = (5, 3, 4, 2)
LONG = max(LENGTHS)
EXTRA: list[tuple[str, dict[str, Any]]] = [
    ("hard_label", {"label_smoothing": 0.1}),
    ("soft_label", {"kind": "reverse"}),
    ("soft_label", {"kind": "jensen_shannon", "temperature": 3.0}),
    ("soft_label", {"kind": "cross_entropy"}),
    ("soft_label", {"kind": "squared_error", "temperature": 5.0}),
    ("hidden_states", {"distance": "cosine", "embeddings": False, "shared": True}),
    ("cls", {"normalize": False}),
    ("attention", {"on": "probabilities", "head_reduction": "mean"}),
    ("rkd", {"on": "logits"}),
    ("minilm", {"relations": ["query_query", "key_key", "value_value"], "relation_heads": 4}),
    ("hidden_states", {"reduction": "sum", "projected": "teacher", "projection": "always"}),
    ("soft_label", {"temperature": 3.0, "tau_squared": False}),
]
NAMES = [name for name in TERMS if name != "plausibility"]  # that of masked text: test_tutor_terms.py
VARIANTS = [(name, {}) for name in NAMES] + EXTRA
each_variant = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda value: str(value))
each_term = pytest.mark.parametrize("name", NAMES)


def make_spec(same: bool = False, regression: bool = False) -> TermSpec:
    """A student of 2 layers and width 4; with ``same`` the teacher is like it, else of 4 layers and width 8."""
    labels = 1 if regression else 3
    student = EncoderFacts(2, 4, 2, labels, 50)
    teacher = student if same else EncoderFacts(4, 8, 2, labels, 50)
    pairs = layer_pairs("uniform", student.num_layers, teacher.num_layers)
    return TermSpec(student, teacher, pairs, regression, 5.0 if regression else 1.0)


def wave(*shape: int, phase: float) -> Tensor:
    """Numbers in [-1, 1] that no version of a random generator changes."""
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).reshape(shape)


def make_output(facts: EncoderFacts, phase: float) -> ModelOutput:
    rows, heads = len(LENGTHS), facts.num_heads
    blocks = range(1, facts.num_layers + 1)
    hidden = {layer: wave(rows, LONG, facts.hidden_size, phase=phase + layer) for layer in (0, *blocks)}
    size = facts.hidden_size // heads
    heads_of = {
        kind: {layer: wave(rows, heads, LONG, size, phase=phase + 0.3 * layer + i) for layer in blocks}
        for i, kind in enumerate(("q", "k", "v"))
    }
    return ModelOutput(
        logits=2.0 * wave(rows, facts.num_labels, phase=phase),
        cls={layer: states[:, 0] for layer, states in hidden.items()},
        hidden_states=hidden,
        attention_scores={layer: 2 * wave(rows, heads, LONG, LONG, phase=phase + 0.7 * layer) for layer in blocks},
        queries=heads_of["q"],
        keys=heads_of["k"],
        values=heads_of["v"],
    )


def make_batch(regression: bool = False) -> Batch:
    mask = torch.arange(LONG)[None, :] < torch.tensor(LENGTHS)[:, None]
    labels = torch.tensor([0.0, 5.0, 2.5, 1.0]) if regression else torch.tensor([0, 1, 2, 1])
    return Batch(torch.zeros(mask.shape, dtype=torch.int64), mask, torch.zeros(mask.shape, dtype=torch.int64), labels)


def make_inputs(term: Term, spec: TermSpec, phase: float = 0.0, equal: bool = False) -> TermInputs:
    student = make_output(spec.student, phase)
    teacher = student if equal else make_output(spec.teacher, phase + 0.9)
    projections = {name: 0.5 * wave(*shape, phase=0.1) for name, shape in term.projections.items()}
    return TermInputs(student, teacher if term.uses_teacher else None, make_batch(spec.regression), projections)


def map_tensors(output: ModelOutput, change: Callable[[str, Tensor], Tensor]) -> ModelOutput:
    """The output with every tensor changed; the function gets the kind of signal too."""
    fields: dict[str, Any] = {"logits": change("logits", output.logits)}
    for kind in ModelOutput._fields[1:]:
        fields[kind] = {layer: change(kind, tensor) for layer, tensor in getattr(output, kind).items()}
    return ModelOutput(**fields)


def only(output: ModelOutput, signals: frozenset[Signal]) -> ModelOutput:
    """The output with nothing but the declared signals."""
    fields: dict[str, Any] = {"logits": output.logits if Signal("logits") in signals else torch.empty(0)}
    for kind in ModelOutput._fields[1:]:
        fields[kind] = {s.layer: getattr(output, kind)[s.layer] for s in signals if s.kind == kind}
    return ModelOutput(**fields)


def build(name: str, options: Mapping[str, Any], spec: TermSpec) -> Term:
    (term,) = build_terms([{"name": name, **options}], spec)
    return term


def token_axes(kind: str) -> tuple[int, ...]:
    return {"hidden_states": (1,), "attention_scores": (2, 3), "queries": (2,), "keys": (2,), "values": (2,)}.get(
        kind, ()
    )


# -- for every registered term


@each_variant
def test_one_loss_per_example_from_the_declared_signals_alone(name: str, options: dict[str, Any]) -> None:
    spec = make_spec()
    term = build(name, options, spec)
    inputs = make_inputs(term, spec)
    full = term.loss(inputs)
    assert full.shape == (len(LENGTHS),)
    assert torch.isfinite(full).all() and (full >= 0).all() and (full > 1e-4).any()
    teacher = only(inputs.teacher, term.teacher_signals) if inputs.teacher is not None else None
    assert torch.equal(
        full, term.loss(inputs._replace(student=only(inputs.student, term.student_signals), teacher=teacher))
    )


@each_variant
def test_zero_where_student_equals_teacher(name: str, options: dict[str, Any]) -> None:
    spec = make_spec(same=True)
    term = build(name, options, spec)
    inputs = make_inputs(term, spec, equal=True)
    minimum = torch.zeros(len(LENGTHS), dtype=torch.float64)
    if options.get("kind") == "cross_entropy":  # at least the teacher's entropy, times tau^2
        p = torch.softmax(inputs.student.logits / 2.0, -1)
        minimum = -4.0 * (p * p.log()).sum(-1)
    if not term.uses_teacher:  # zero in the limit of a certain and right student, without label smoothing
        sure = 200.0 * torch.nn.functional.one_hot(inputs.batch.labels, 3).double()
        inputs = inputs._replace(student=inputs.student._replace(logits=sure))
        minimum = minimum + options.get("label_smoothing", 0.0) * 200.0 * 2 / 3
    always = options.get("projection") == "always"
    if always:  # zero where the map is none
        identity = {name: torch.eye(*shape, dtype=torch.float64) for name, shape in term.projections.items()}
        inputs = inputs._replace(projections=identity)
    assert torch.allclose(term.loss(inputs), minimum, atol=1e-9)
    assert bool(term.projections) == always


GOLDEN = {  # made with torch 2.13.0; the loss of the first example, default options, make_inputs(make_spec())
    "attention": 5.380905592839,
    "cls": 2.078406659706,
    "dist": 1.669660476975,
    "hard_label": 2.182307743359,
    "hidden_states": 0.996408310427,
    "logit_mse": 1.702343786517,
    "minilm": 0.218160172723,
    "relation": 0.261388888154,
    "rkd": 0.301415670955,
    "soft_label": 0.802175607639,
}


@each_term
def test_golden_value(name: str) -> None:
    spec = make_spec()
    term = build(name, {}, spec)
    assert float(term.loss(make_inputs(term, spec))[0]) == pytest.approx(GOLDEN[name], rel=1e-9)


@each_variant
def test_more_padding_changes_nothing(name: str, options: dict[str, Any]) -> None:
    spec = make_spec()
    term = build(name, options, spec)
    inputs = make_inputs(term, spec)

    def pad(kind: str, x: Tensor) -> Tensor:
        for axis in token_axes(kind):
            shape = list(x.shape)
            shape[axis] = 3
            x = torch.cat([x, torch.full(shape, 7.0, dtype=x.dtype)], dim=axis)
        return x

    batch = Batch(
        *(torch.nn.functional.pad(x, (0, 3)) for x in inputs.batch[:3]),  # type: ignore[call-arg]
        labels=inputs.batch.labels,
    )
    teacher = map_tensors(inputs.teacher, pad) if inputs.teacher is not None else None
    padded = inputs._replace(student=map_tensors(inputs.student, pad), teacher=teacher, batch=batch)
    assert torch.allclose(term.loss(padded), term.loss(inputs), rtol=1e-12, atol=1e-14)


@each_variant
def test_mask_keeps_real_tokens_and_drops_padding(name: str, options: dict[str, Any]) -> None:
    spec = make_spec()
    term = build(name, options, spec)
    inputs = make_inputs(term, spec)
    row = 1
    before = term.loss(inputs)

    def shift(at: int) -> Tensor:
        def change(kind: str, x: Tensor) -> Tensor:
            x = x.clone()
            for axis in token_axes(kind):
                token = x[row].select(axis - 1, at)
                token += torch.linspace(0.5, 1.5, token.numel(), dtype=x.dtype).reshape(token.shape)
            return x

        return term.loss(inputs._replace(student=map_tensors(inputs.student, change)))

    assert torch.equal(shift(LENGTHS[row]), before)
    if any(token_axes(signal.kind) for signal in term.student_signals):
        after = shift(LENGTHS[row] - 1)
        assert after[row] != before[row]
        assert torch.equal(after.ne(before), torch.arange(len(LENGTHS)) == row)


def leaves(output: ModelOutput, signals: frozenset[Signal]) -> list[Tensor]:
    return [output.logits if s.kind == "logits" else getattr(output, s.kind)[s.layer] for s in sorted(signals)]


@each_variant
@pytest.mark.parametrize("equal", [False, True])
def test_gradients_are_finite_and_reach_every_signal_and_projection(
    name: str, options: dict[str, Any], equal: bool
) -> None:
    spec = make_spec(same=equal)
    term = build(name, options, spec)
    inputs = make_inputs(term, spec, equal=equal)
    student = map_tensors(inputs.student, lambda _, x: x.clone().requires_grad_())
    projections = {key: value.clone().requires_grad_() for key, value in inputs.projections.items()}
    term.loss(inputs._replace(student=student, projections=projections)).sum().backward()
    for tensor in [*leaves(student, term.student_signals), *projections.values()]:
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all()
        assert equal or tensor.grad.abs().max() > 1e-8


@each_variant
@pytest.mark.parametrize("degenerate", [0.0, 1.0], ids=["all zero", "all alike"])
def test_no_nan_at_zero_vectors_and_equal_rows(name: str, options: dict[str, Any], degenerate: float) -> None:
    spec = make_spec()
    term = build(name, options, spec)
    inputs = make_inputs(term, spec)
    student = map_tensors(inputs.student, lambda _, x: torch.full_like(x, degenerate, dtype=torch.float32))
    student = map_tensors(student, lambda _, x: x.requires_grad_())
    projections = {key: value.float() for key, value in inputs.projections.items()}
    teacher = None if inputs.teacher is None else map_tensors(inputs.teacher, lambda _, x: x.float())
    loss = term.loss(inputs._replace(student=student, teacher=teacher, projections=projections))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert all(torch.isfinite(tensor.grad).all() for tensor in leaves(student, term.student_signals))  # type: ignore[union-attr]


@each_variant
def test_a_row_without_tokens_and_a_batch_of_one_are_finite(name: str, options: dict[str, Any]) -> None:
    spec = make_spec()
    term = build(name, options, spec)
    inputs = make_inputs(term, spec)
    empty = inputs._replace(
        batch=inputs.batch._replace(attention_mask=torch.zeros(len(LENGTHS), LONG, dtype=torch.bool))
    )
    assert torch.isfinite(term.loss(empty)).all()
    first = lambda _, x: x[:1]  # noqa: E731
    one = inputs._replace(
        student=map_tensors(inputs.student, first),
        teacher=None if inputs.teacher is None else map_tensors(inputs.teacher, first),
        batch=Batch(*(x[:1] for x in inputs.batch[:4])),
    )
    assert torch.isfinite(term.loss(one)).all()


@each_variant
def test_vmap_equals_a_loop(name: str, options: dict[str, Any]) -> None:
    spec = make_spec()
    term = build(name, options, spec)
    inputs = [make_inputs(term, spec, phase=0.4 * replica) for replica in range(3)]
    teacher, batch = inputs[0].teacher, inputs[0].batch
    inputs = [one._replace(teacher=teacher) for one in inputs]
    students = torch.utils._pytree.tree_map(lambda *x: torch.stack(x), *[one.student for one in inputs])
    projections = {
        key: torch.stack([one.projections[key] * (i + 1) for i, one in enumerate(inputs)]) for key in term.projections
    }

    def loss(student: ModelOutput, maps: dict[str, Tensor]) -> Tensor:
        return term.loss(TermInputs(student, teacher, batch, maps))

    stacked = torch.func.vmap(loss)(students, projections)
    gradients = torch.func.vmap(torch.func.grad(lambda s, m: loss(s, m).sum()))(students, projections)
    for i, one in enumerate(inputs):
        maps = {key: value[i] for key, value in projections.items()}
        assert torch.allclose(stacked[i], loss(one.student, maps), rtol=1e-12, atol=1e-14)
        gradient = torch.func.grad(lambda s, m=maps: loss(s, m).sum())(one.student)
        for ours, slow in zip(
            leaves(gradients, term.student_signals), leaves(gradient, term.student_signals), strict=True
        ):
            assert torch.allclose(ours[i], slow, rtol=1e-9, atol=1e-12)


@each_variant
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own, on first use
def test_forward_derivative_equals_finite_difference(name: str, options: dict[str, Any]) -> None:
    spec = make_spec()
    term = build(name, options, spec)
    inputs = make_inputs(term, spec)
    direction = map_tensors(inputs.student, lambda _, x: torch.cos(3.0 * x))

    def loss(student: ModelOutput) -> Tensor:
        return term.loss(inputs._replace(student=student))

    def moved(step: float) -> ModelOutput:
        return torch.utils._pytree.tree_map(lambda x, d: x + step * d, inputs.student, direction)

    _, exact = torch.func.jvp(loss, (inputs.student,), (direction,))
    assert torch.allclose(exact, (loss(moved(1e-6)) - loss(moved(-1e-6))) / 2e-6, rtol=1e-5, atol=1e-8)


@each_variant
def test_a_cached_float16_teacher_gives_float32_losses(name: str, options: dict[str, Any]) -> None:
    spec = make_spec()
    term = build(name, options, spec)
    inputs = make_inputs(term, spec)
    half = inputs._replace(
        student=map_tensors(inputs.student, lambda _, x: x.bfloat16()),
        teacher=None if inputs.teacher is None else map_tensors(inputs.teacher, lambda _, x: x.half()),
        projections={key: value.float() for key, value in inputs.projections.items()},
    )
    loss = term.loss(half)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss.double(), term.loss(inputs), rtol=0.1, atol=0.03)


# -- closed forms and slow versions


def test_cross_entropy_limits() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, math.log(2.0)]], dtype=torch.float64)
    labels = torch.tensor([1, 2])
    assert cross_entropy(logits, labels).tolist() == pytest.approx([math.log(3), math.log(2)])
    for smoothing in (0.0, 0.2):
        slow = torch.nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        assert torch.allclose(cross_entropy(logits, labels, smoothing), slow)


def test_soft_label_closed_forms() -> None:
    teacher = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)  # probabilities 3/4 and 1/4
    student = torch.zeros(1, 2, dtype=torch.float64)  # 1/2 and 1/2
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    reverse = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    middle = (0.625, 0.375)
    jensen = 0.5 * sum(p * math.log(p / m) for p, m in zip((0.75, 0.25), middle, strict=True))
    jensen += 0.5 * sum(0.5 * math.log(0.5 / m) for m in middle)
    for kind, value in (
        ("forward", forward),
        ("reverse", reverse),
        ("jensen_shannon", jensen),
        ("cross_entropy", math.log(2)),
    ):
        assert float(soft_label_divergence(student, teacher, 1.0, kind)) == pytest.approx(value)
        # at tau = 2 the logits are halved and the divergence is multiplied by 4
        doubled = soft_label_divergence(2 * student, 2 * teacher, 2.0, kind)
        assert float(doubled) == pytest.approx(4 * value)


def test_jensen_shannon_is_symmetric_and_bounded_and_kl_is_not() -> None:
    a, b = torch.tensor([[9.0, -9.0, 0.0]]).double(), torch.tensor([[-50.0, 50.0, 3.0]]).double()
    js = soft_label_divergence(a, b, 1.0, "jensen_shannon")
    assert torch.allclose(js, soft_label_divergence(b, a, 1.0, "jensen_shannon"))
    assert float(js) == pytest.approx(math.log(2), abs=1e-6)
    assert float(soft_label_divergence(a, b)) != pytest.approx(float(soft_label_divergence(b, a)))
    assert torch.equal(soft_label_divergence(a, b, 1.0, "reverse"), soft_label_divergence(b, a, 1.0, "forward"))


def test_the_target_of_the_logits_may_be_scaled() -> None:
    """Annealing KD: the student's logits regress on a share of the teacher's; half of it is its own loss to z_T / 2."""
    spec = make_spec()
    whole, half = build("logit_mse", {}, spec), build("logit_mse", {"target_scale": 0.5}, spec)
    inputs = make_inputs(half, spec)
    student, teacher = inputs.student.logits, inputs.taught.logits
    for row, loss in enumerate(half.loss(inputs).tolist()):
        errors = [(float(s) - 0.5 * float(t)) ** 2 for s, t in zip(student[row], teacher[row], strict=True)]
        assert loss == pytest.approx(sum(errors) / len(errors))
    assert torch.equal(build("logit_mse", {"target_scale": 1.0}, spec).loss(inputs), whole.loss(inputs))


def test_large_temperature_matches_centred_logits() -> None:
    """Hinton et al., section 2.1: tau^2 KL tends to half the variance of the logit difference."""
    a, b = wave(4, 3, phase=0.0), wave(4, 3, phase=2.0)
    limit = 0.5 * (a - b).var(-1, unbiased=False)
    assert torch.allclose(soft_label_divergence(a, b, 1e3), limit, rtol=1e-2)


def test_regression_errors_are_in_units_of_the_label_range() -> None:
    spec = make_spec(regression=True)
    terms = build_terms(["hard_label", "soft_label", "logit_mse"], spec)
    losses = [term.loss(make_inputs(term, spec)) for term in terms]
    inputs = make_inputs(terms[1], spec)
    student, teacher = inputs.student.logits[:, 0], inputs.taught.logits[:, 0]
    assert torch.allclose(losses[0], (student - inputs.batch.labels) ** 2 / 25)
    assert torch.allclose(losses[1], (student - teacher) ** 2 / 25)
    assert torch.allclose(losses[2], losses[1])


def test_hidden_states_against_a_loop_over_real_tokens() -> None:
    student, teacher, mask = wave(4, LONG, 8, phase=0.0), wave(4, LONG, 8, phase=1.0), make_batch().attention_mask
    for distance in ("mse", "cosine"):
        loss = hidden_state_distance(student, teacher, mask, distance)
        for row, length in enumerate(LENGTHS):
            values = []
            for s, t in zip(student[row, :length].numpy(), teacher[row, :length].numpy(), strict=True):
                cosine = s @ t / np.linalg.norm(s) / np.linalg.norm(t)
                values.append(np.mean((s - t) ** 2) if distance == "mse" else 1 - cosine)
            assert float(loss[row]) == pytest.approx(np.mean(values))


def test_cls_is_two_minus_two_cosines() -> None:
    s, t = torch.tensor([[3.0, 0.0], [1.0, 1.0], [2.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    assert cls_distance(s, t).tolist() == pytest.approx([0.0, 2 - math.sqrt(2), 4.0], abs=1e-6)
    assert cls_distance(s, t, normalize=False).tolist() == pytest.approx([4.0, 2.0, 9.0])


@pytest.mark.parametrize("on", ["scores", "probabilities"])
@pytest.mark.parametrize("average", [False, True])
def test_attention_against_a_loop(on: str, average: bool) -> None:
    student, teacher, mask = (
        wave(4, 2, LONG, LONG, phase=0.0),
        wave(4, 2, LONG, LONG, phase=1.0),
        make_batch().attention_mask,
    )
    loss = attention_distance(student, teacher, mask, on, average)
    for row, length in enumerate(LENGTHS):
        maps = []
        for scores in (student, teacher):
            real = scores[row, :, :length, :length].numpy()
            if on == "probabilities":
                real = np.exp(real) / np.exp(real).sum(-1, keepdims=True)
            maps.append(real.mean(0) if average else real)
        assert float(loss[row]) == pytest.approx(np.mean((maps[0] - maps[1]) ** 2))


def test_heads_may_differ_under_head_reduction_and_relation_heads() -> None:
    facts = make_spec()
    spec = TermSpec(facts.student, facts.teacher._replace(num_heads=4), facts.pairs, False)
    for name, options in (("attention", {"head_reduction": "mean"}), ("minilm", {"relation_heads": 4})):
        term = build(name, options, spec)
        assert torch.isfinite(term.loss(make_inputs(term, spec))).all()
    for name, remedy in (("attention", "head_reduction='mean'"), ("minilm", "relation_heads")):
        with pytest.raises(ValueError, match=remedy):
            build_terms([name], spec)


def test_relation_against_a_loop() -> None:
    a, b, mask = wave(4, LONG, 3, phase=0.0), wave(4, LONG, 3, phase=1.0), make_batch().attention_mask
    flow = fsp_matrix(a, b, mask)
    for row, length in enumerate(LENGTHS):
        slow = sum(np.outer(a[row, i], b[row, i]) for i in range(length)) / length
        assert np.allclose(flow[row], slow)
    spec = make_spec()
    term = build("relation", {}, spec)
    inputs = make_inputs(term, spec)
    slow_loss = torch.zeros(4, dtype=torch.float64)
    for (s1, t1), (s2, t2) in zip(spec.pairs, spec.pairs[1:], strict=False):
        low, high = (inputs.student.hidden_states[s] @ inputs.projections[f"layer_{s}"].T for s in (s1, s2))
        student = fsp_matrix(low, high, mask)
        teacher = fsp_matrix(inputs.taught.hidden_states[t1], inputs.taught.hidden_states[t2], mask)
        slow_loss += ((student - teacher) ** 2).mean((1, 2)) / (len(spec.pairs) - 1)
    assert torch.allclose(term.loss(inputs), slow_loss)


@pytest.mark.parametrize("apart", [1.0, 1e-3], ids=["far", "near"])
def test_flows_of_wide_layers_are_compared_without_their_matrices(
    apart: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses and derivatives are those of the matrices in float64, also where student and teacher nearly agree."""
    mask, width, dtype, rounding = make_batch().attention_mask, 200, torch.float32, 1e-6
    assert by_tokens(width, width, LONG) and not by_tokens(64, 64, LONG) and not by_tokens(width, width, 64)
    monkeypatch.setattr(relations, "flow_distance_by_matrices", lambda *_: pytest.fail("the matrices were made"))

    def pair(phase: float) -> tuple[Tensor, Tensor]:
        return wave(4, LONG, width, phase=phase).to(dtype), wave(4, LONG, width, phase=phase + 1.0).to(dtype)

    teacher = pair(0.0)
    student = teacher[0] + apart * pair(2.0)[0], teacher[1] + apart * pair(2.0)[1]
    exact_teacher = teacher[0].double(), teacher[1].double()

    def slow(low: Tensor, high: Tensor) -> Tensor:
        return (fsp_matrix(low, high, mask) - fsp_matrix(*exact_teacher, mask)).square().mean((-1, -2))

    def fast(low: Tensor, high: Tensor) -> Tensor:
        return fsp_distance((low, high), teacher, mask)

    loss, exact_student = fast(*student), (student[0].double(), student[1].double())
    assert loss.dtype == dtype
    assert torch.allclose(loss.double(), slow(*exact_student), rtol=rounding, atol=0.0)
    found = torch.func.vjp(fast, *student)[1](torch.ones(4, dtype=dtype))
    expected = torch.func.vjp(slow, *exact_student)[1](torch.ones(4, dtype=torch.float64))
    for gradient, other in zip(found, expected, strict=True):
        assert torch.allclose(gradient.double(), other, rtol=rounding, atol=rounding * float(other.abs().max()))
        assert (gradient[~mask] == 0).all()
    direction = pair(4.0)
    along = torch.func.jvp(fast, student, direction)[1].double()
    exact_along = torch.func.jvp(slow, exact_student, (direction[0].double(), direction[1].double()))[1]
    assert torch.allclose(along, exact_along, rtol=rounding, atol=rounding * float(exact_along.abs().max()))
    assert torch.allclose(torch.func.vmap(fast)(student[0][None], student[1][None])[0], loss, rtol=rounding)
    same = fsp_distance(teacher, teacher, mask)
    assert (same >= 0).all() and float(same.max()) < 1e-15
    monkeypatch.setattr(relations, "flow_distance_by_matrices", lambda *_: "matrices")
    assert fsp_distance(exact_student, exact_teacher, mask) == "matrices"  # type: ignore[comparison-overlap]


def huber(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def test_rkd_against_loops_over_pairs_and_triples() -> None:
    s, t = 3 * wave(4, 3, phase=0.0).numpy(), wave(4, 5, phase=1.0).numpy()
    rows = range(4)

    def distance(x: np.ndarray, i: int, j: int) -> float:
        mean = np.mean([np.linalg.norm(x[a] - x[b]) for a in rows for b in rows if a != b])
        return float(np.linalg.norm(x[i] - x[j]) / mean)

    def angle(x: np.ndarray, at: int, i: int, k: int) -> float:
        u, v = x[i] - x[at], x[k] - x[at]
        return float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))

    loss = relational_distance(torch.from_numpy(s), torch.from_numpy(t), 0.7, 1.3)
    for at in rows:
        pairs = [huber(distance(s, at, j) - distance(t, at, j)) for j in rows if j != at]
        triples = [huber(angle(s, at, i, k) - angle(t, at, i, k)) for i in rows for k in rows if len({at, i, k}) == 3]
        assert float(loss[at]) == pytest.approx(0.7 * np.sum(pairs) / 4 + 1.3 * np.sum(triples) / 16)


@pytest.mark.parametrize("size", [2, 3, 6])
def test_rkd_is_the_mean_of_the_authors_code(size: int) -> None:
    """Means over the whole matrix of pairs and the whole cube of triples; distances over the mean of those above 0."""
    s, t = 3 * wave(size, 3, phase=0.0), wave(size, 5, phase=1.0)

    def distances(x: Tensor) -> Tensor:
        found = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        return found / found[found > 0].mean()

    def angles(x: Tensor) -> Tensor:
        edges = torch.nn.functional.normalize(x.unsqueeze(0) - x.unsqueeze(1), dim=2)
        return torch.bmm(edges, edges.transpose(1, 2))

    distance = torch.nn.functional.smooth_l1_loss(distances(s), distances(t), reduction="mean")
    angle = torch.nn.functional.smooth_l1_loss(angles(s), angles(t), reduction="mean")
    assert float(relational_distance(s, t, 0.7, 1.3).mean()) == pytest.approx(float(0.7 * distance + 1.3 * angle))


def test_rkd_does_not_see_scale_shift_and_rotation() -> None:
    x = wave(5, 3, phase=0.5)
    rotation, _ = torch.linalg.qr(wave(3, 3, phase=0.2))
    assert float(relational_distance(4.0 * x @ rotation + 1.0, x).max()) < 1e-9


def test_minilm_against_a_loop() -> None:
    mask = make_batch().attention_mask
    student = (wave(4, 2, LONG, 3, phase=0.0), wave(4, 2, LONG, 3, phase=1.0))
    teacher = (wave(4, 2, LONG, 5, phase=2.0), wave(4, 2, LONG, 5, phase=3.0))
    loss = relation_divergence(student, teacher, mask)
    for row, length in enumerate(LENGTHS):
        values = []
        for head in range(2):
            distributions = []
            for a, b in (student, teacher):
                scores = a[row, head, :length].numpy() @ b[row, head, :length].numpy().T / math.sqrt(a.shape[-1])
                distributions.append(np.exp(scores) / np.exp(scores).sum(-1, keepdims=True))
            p_s, p_t = distributions
            values += [np.sum(p_t[i] * np.log(p_t[i] / p_s[i])) for i in range(length)]
        assert float(loss[row]) == pytest.approx(np.mean(values))


def test_resplit_heads_keeps_the_order_of_features() -> None:
    x = wave(2, 2, LONG, 6, phase=0.0)
    assert torch.equal(resplit_heads(resplit_heads(x, 4), 2), x)
    assert torch.equal(resplit_heads(x, 4)[0, 1, 0], x[0, 0, 0, 3:])


def test_dist_against_numpy_correlations() -> None:
    student, teacher = wave(4, 3, phase=0.0), wave(4, 3, phase=1.0)
    loss = dist_loss(student, teacher, 2.0, 0.5, 3.0)
    p, q = torch.softmax(student / 2, -1).numpy(), torch.softmax(teacher / 2, -1).numpy()
    intra = np.mean([1 - np.corrcoef(p[:, c], q[:, c])[0, 1] for c in range(3)])
    for row in range(4):
        inter = 1 - np.corrcoef(p[row], q[row])[0, 1]
        assert float(loss[row]) == pytest.approx(4 * (0.5 * inter + 3.0 * intra), rel=1e-6)


def test_dist_is_blind_to_what_correlation_is_blind_to() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.4, 0.5], [0.2, 0.1, 0.7]], dtype=torch.float64)
    flatter = 0.5 * p + 0.5 / 3  # a positive linear function of p, row by row and column by column
    assert float(dist_loss(flatter.log(), p.log()).max()) < 1e-8


# -- declarations and building


def test_projections_only_where_widths_differ() -> None:
    wide, same = make_spec(), make_spec(same=True)
    for name in ("hidden_states", "relation"):
        assert build(name, {}, wide).projections == {f"layer_{layer}": (8, 4) for layer in (0, 1, 2)}
        assert not build(name, {}, same).projections
    assert build("cls", {}, wide).projections == {f"layer_{layer}": (8, 4) for layer in (1, 2)}
    assert build("hidden_states", {"shared": True}, wide).projections == {"shared": (8, 4)}


def test_cls_reads_cls_alone_and_minilm_the_last_pair() -> None:
    spec = make_spec()
    assert build("cls", {}, spec).teacher_signals == {Signal("cls", 2), Signal("cls", 4)}
    assert build("rkd", {}, spec).student_signals == {Signal("cls", 2)}
    assert {s.layer for s in build("minilm", {}, spec).teacher_signals} == {4}
    assert not build("hard_label", {}, spec).uses_teacher


def test_a_second_copy_needs_another_name() -> None:
    spec = make_spec()
    terms = build_terms(["soft_label", {"name": "soft_label", "as": "hot", "temperature": 8.0}], spec)
    assert [term.name for term in terms] == ["soft_label", "hot"]
    with pytest.raises(ValueError, match=r"named twice.*as: soft_label_2"):
        build_terms(["soft_label", "soft_label"], spec)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (["soft_labels"], ["soft_labels", "Did you mean 'soft_label'"]),
        ([{"name": "soft_label", "temprature": 2}], ["temprature", "Did you mean 'temperature'", "kind"]),
        ([{"name": "relation", "kind": "x"}], ["kind", "Valid: projection, reduction"]),
        ([{"temperature": 2}], ["'name'"]),
        ([3], ["'name'"]),
        ([], ["empty"]),
        ("soft_label", ["['soft_label']"]),
        ([{"name": "rkd", "as": 3}], ["as=3"]),
        ([{"name": "rkd", "weight": 0}], ["rkd.weight=0", "at least 1e-06"]),
        ([{"name": "rkd", "weight": "1"}], ["rkd.weight='1'"]),
        ([{"name": "soft_label", "temperature": 0}], ["temperature=0", "at least 0.05 and at most 100.0"]),
        ([{"name": "soft_label", "temperature": float("nan")}], ["finite"]),
        ([{"name": "soft_label", "kind": "backward"}], ["backward", "reverse"]),
        ([{"name": "hard_label", "label_smoothing": 1.0}], ["at most 0.999"]),
        ([{"name": "hidden_states", "distance": "l1"}], ["l1", "cosine"]),
        ([{"name": "hidden_states", "shared": "yes"}], ["shared='yes'", "true or false"]),
        ([{"name": "hidden_states", "reduction": "som"}], ["Did you mean 'sum'"]),
        ([{"name": "hidden_states", "projection": "never"}], ["'never'", "always, auto"]),
        ([{"name": "hidden_states", "projected": "both"}], ["'both'", "student, teacher"]),
        ([{"name": "soft_label", "tau_squared": 2}], ["tau_squared=2", "true or false"]),
        ([{"name": "attention", "on": "score"}], ["Did you mean 'scores'"]),
        ([{"name": "attention", "head_reduction": "sum"}], ["sum", "mean"]),
        ([{"name": "minilm", "relations": ["query_kay"]}], ["Did you mean 'query_key'"]),
        ([{"name": "minilm", "relations": "query_key"}], ["must be a list"]),
        ([{"name": "minilm", "relations": ["key_key", "key_key"]}], ["repeats"]),
        ([{"name": "minilm", "relation_heads": 3}], ["relation_heads=3", "student's hidden size 4"]),
        ([{"name": "minilm", "relation_heads": 0}], ["relation_heads=0", "at least 1"]),
        ([{"name": "rkd", "on": "hidden"}], ["hidden", "logits"]),
        ([{"name": "rkd", "distance_weight": 0, "angle_weight": 0}], ["both 0"]),
        ([{"name": "rkd", "angle_weight": -1}], ["angle_weight=-1", "at least 0"]),
        ([{"name": "dist", "beta": 0, "gamma": 0}], ["both 0"]),
        ([{"name": "logit_mse", "target_scale": 0}], ["target_scale=0", "above 0", "at most 1"]),
    ],
)
def test_bad_terms_are_refused_with_a_remedy(terms: Any, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        build_terms(terms, make_spec())
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("term", "words"),
    [
        ("dist", ["dist", "regression"]),
        ({"name": "soft_label", "kind": "reverse"}, ["kind='reverse'", "regression"]),
        ({"name": "soft_label", "temperature": 4.0}, ["temperature=4.0", "regression"]),
        ({"name": "hard_label", "label_smoothing": 0.1}, ["label_smoothing", "regression"]),
        ({"name": "rkd", "on": "logits"}, ["angle_weight=0"]),
    ],
)
def test_terms_without_meaning_in_regression(term: Any, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        build_terms([term], make_spec(regression=True))
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("name", ["cls", "attention", "minilm", "rkd", "relation", "hidden_states"])
def test_terms_without_a_layer_to_read(name: str) -> None:
    facts = make_spec()
    options = {"embeddings": False} if name == "hidden_states" else {}
    with pytest.raises(ValueError, match=rf"{name}.*layer_map='uniform'"):
        build_terms([{"name": name, **options}], TermSpec(facts.student, facts.teacher, ((0, 0),), False))


@pytest.mark.parametrize("name", ["soft_label", "logit_mse", "dist"])
def test_label_counts_must_agree(name: str) -> None:
    facts = make_spec()
    with pytest.raises(ValueError, match="3 labels and the teacher 2"):
        build_terms([name], TermSpec(facts.student, facts.teacher._replace(num_labels=2), facts.pairs, False))


def test_a_missing_teacher_output_is_named() -> None:
    spec = make_spec()
    term = build("soft_label", {}, spec)
    with pytest.raises(ValueError, match="no teacher output"):
        term.loss(make_inputs(term, spec)._replace(teacher=None))


def test_a_term_from_outside_in_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TERMS, "_items", dict(TERMS._items))

    @TERMS.register("margin")
    def margin(spec: TermSpec, *, width: float = 1.0) -> Term:
        logits = frozenset({Signal("logits")})
        return Term("margin", lambda i: (width - i.student.logits.amax(-1)).relu(), logits, frozenset(), {})

    (term,) = build_terms([{"name": "margin", "width": 9.0}], make_spec())
    assert (term.loss(make_inputs(term, make_spec())) > 0).all()


def test_a_term_from_outside_keeps_an_option_named_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere ``weight`` multiplies the loss of any term."""
    monkeypatch.setattr(TERMS, "_items", dict(TERMS._items))

    @TERMS.register("weighed")
    def weighed(spec: TermSpec, *, weight: float = 1.0) -> Term:
        return Term("weighed", lambda inputs: inputs.student.logits.sum(-1) * weight, frozenset(), frozenset(), {})

    own, other = term_entries([{"name": "weighed", "weight": -2.0}, {"name": "hard_label", "weight": 2.0}])
    assert (own.options, own.weight) == ({"weight": -2.0}, 1.0)
    assert (other.options, other.weight) == ({}, 2.0)


def test_a_side_that_is_not_mapped_is_refused() -> None:
    """At equal widths there are maps by ``projection=always`` alone."""
    with pytest.raises(ValueError, match=r"maps nothing.*projection='always'"):
        build_terms([{"name": "hidden_states", "projected": "teacher"}], make_spec(same=True))
