"""What a step computes: identities and a plain PyTorch loop."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kd_env import DistillEnv, DistillVectorEnv, build_problem
from kd_env.decisions.options import env_config
from kd_env.mdp import gradients
from kd_env.numerics.calibration import fit_temperatures
from kd_env.numerics.optim import learning_rate_factor


def parameters(env: Any) -> dict[str, torch.Tensor]:
    """A copy of the first replica's trainable tensors."""
    return {name: p[0].clone() for name, p in env.run.started().params.items()}


def test_all_ones_equals_a_plain_adamw_loop(tiny: dict[str, Any]) -> None:
    """Ten updates of an ordinary module under ``torch.optim.AdamW`` with clipping and the linear schedule."""
    from transformers import BertForSequenceClassification

    options = {**tiny, "terms": ["hard_label", {"name": "soft_label", "temperature": 2.0}], "budget": 10}
    env = DistillEnv(**options, precision="fp64", term_scale="none")
    env.reset(seed=0)
    problem, config = env.problem, env.problem.config.optimizer_config
    model = BertForSequenceClassification(problem.student.module.config).double()
    model.load_state_dict({**problem.student.module.state_dict(), **parameters(env)})
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda u: 1.0 if u < 1 else (10 - u) / 9)
    for _ in range(5):
        for rows in env.run.started().next_rows[0]:
            batch = problem.train.gather(rows)
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long()).logits
            teacher = problem.reference.source.signals(rows, batch, None).logits
            soft = F.kl_div(
                F.log_softmax(logits / 2, -1), F.log_softmax(teacher / 2, -1), log_target=True, reduction="batchmean"
            )
            loss = F.cross_entropy(logits, batch.labels) + 4 * soft
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        info = env.step(np.ones(2, np.int8))[4]
    assert info["updates"] == 10
    mine = parameters(env)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(mine[name], parameter.detach(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("view", ["native", "discrete", "box"])
def test_the_empty_action_changes_nothing(view: str, tiny_problem: Any) -> None:
    """Parameters, moments, step count and running scale stay; budget, data order and schedule go on."""
    env = DistillEnv(problem=tiny_problem, action_view=view)
    env.reset(seed=0)
    env.step(env.decision.encode({"soft_label": 1.0}))
    before = env.get_state().run
    _, reward, _, _, info = env.step(env.decision.encode({}))
    after = env.get_state().run
    assert reward == 0.0 and info["skipped"] and info["update_norm"] == 0.0
    for name in ("params", "exp_avg", "exp_avg_sq"):
        for key, tensor in getattr(before, name).items():
            assert torch.equal(tensor, getattr(after, name)[key])
    assert torch.equal(before.term_scale, after.term_scale)
    np.testing.assert_array_equal(before.optimizer_steps, after.optimizer_steps)
    assert after.updates[0] == before.updates[0] + 2
    assert not np.array_equal(before.next_rows, after.next_rows)
    assert (info["raw_losses"] > 0).all(), "raw losses are told also when nothing is applied"


@pytest.mark.parametrize(("view", "components"), [("native", 3), ("discrete", 5), ("box", 4)])
def test_every_component_of_every_action_matters(view: str, components: int, tiny_problem: Any) -> None:
    """Changing one component (or choosing another entry) gives another student."""
    env = DistillEnv(problem=tiny_problem, action_view=view)
    env.reset(seed=0)
    env.step(env.decision.encode({"hard_label": 1.0}))  # Adam's first step is a sign, blind to scale
    state = env.get_state()

    def student(action: Any) -> torch.Tensor:
        env.set_state(state)
        env.step(action)
        return torch.cat([p.flatten() for p in parameters(env).values()])

    if view == "discrete":
        students = [student(np.asarray(choice)) for choice in range(components)]
        for first in range(components):
            for second in range(first):
                assert not torch.equal(students[first], students[second])
        return
    base = np.array([1, 1, 1], np.int8) if view == "native" else np.array([0.4, 0.4, 0.4, 0.4], np.float32)
    for component in range(components):
        other = base.copy()
        other[component] = 0
        assert not torch.equal(student(base), student(other)), f"component {component} changes nothing"


def test_gate_skips_and_scales(tiny_problem: Any) -> None:
    """Below -0.5 nothing is applied; above, the update is scaled by (g + 1) / 2."""
    env = DistillEnv(problem=tiny_problem, action_view="box", updates_per_step=1)
    env.reset(seed=0)
    state = env.get_state()
    norms = []
    for gate in (-0.6, 0.0, 1.0):
        env.set_state(state)
        norms.append(env.step(np.array([1, 1, 1, gate], np.float32))[4]["update_norm"])
    assert norms[0] == 0.0
    assert norms[1] == pytest.approx(norms[2] / 2, rel=1e-5)


def test_dense_return_equals_sparse_return(tiny_problem: Any) -> None:
    """The rewards telescope, whatever the interval of evaluation."""
    returns = []
    for every in (1, 2, 3, 0):
        env = DistillEnv(problem=tiny_problem, evaluate_every=every)
        env.reset(seed=2)
        total, ended = 0.0, False
        while not ended:
            _, reward, ended, _, info = env.step(np.ones(3, np.int8))
            total += reward
        returns.append(total)
        assert total == pytest.approx(info["gap_closed"], abs=1e-12)
    np.testing.assert_allclose(returns, returns[0], rtol=1e-9)
    assert returns[0] != 0.0


def test_the_reward_sees_the_update_that_the_action_caused(tiny_problem: Any) -> None:
    """The reward is the change of the loss of the student before and after this very step."""
    env = DistillEnv(problem=tiny_problem)
    env.reset(seed=1)
    table = env.problem.feedback
    teacher = env.problem.reference.feedback_logits
    labels = table.labels

    def loss(logits: np.ndarray) -> float:
        return float(env.problem.loss(logits, table, teacher, fit_temperatures(logits, labels))[0])

    before = loss(env.predict(table))
    _, reward, _, _, info = env.step(np.array([1, 0, 0], np.int8))
    after = loss(env.predict(table))
    scale = env.run.started().gap_scale[0]
    assert reward == pytest.approx((before - after) / scale, rel=1e-9)
    assert info["loss"] == pytest.approx(after, rel=1e-12)


def test_divergence_ends_the_episode_with_its_reward(tiny_problem: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Return min(return so far, 0) - 1, terminated, update and rows named; the next episode is fine."""
    env = DistillEnv(problem=tiny_problem)
    env.reset(seed=0)
    total = env.step(np.ones(3, np.int8))[1]
    state = env.get_state()
    state.run.params["classifier.bias"][0] = float("inf")
    env.set_state(state)
    observation, reward, terminated, truncated, info = env.step(np.ones(3, np.int8))
    assert terminated and not truncated and info["diverged"]
    assert total + reward == pytest.approx(min(total, 0.0) - 1.0)
    assert env.observation_space.contains(observation) and np.isfinite(observation).all()
    assert "update 2" in caplog.text and "rows [" in caplog.text
    env.reset()
    assert not env.step(np.ones(3, np.int8))[4]["diverged"]


@pytest.mark.parametrize("how", ["mean", "sum"])
def test_weight_normalization(how: str, tiny_problem: Any) -> None:
    """Soft weights that differ by a factor are the same action once normalised, and the empty one still skips."""
    env = DistillEnv(problem=tiny_problem, action_view="box", weight_normalization=how)
    env.reset(seed=0)
    state = env.get_state()
    students = []
    for factor in (1.0, 0.5):
        env.set_state(state)
        env.step(env.decision.encode({"hard_label": 0.8 * factor, "soft_label": 0.4 * factor}))
        students.append(torch.cat([p.flatten() for p in parameters(env).values()]))
    torch.testing.assert_close(*students)
    env.set_state(state)
    assert env.step(env.decision.encode({}))[4]["skipped"]


def test_running_scale_makes_terms_comparable(tiny_problem: Any) -> None:
    """At the first update every normalised loss is 1, and the scale is the mean of the raw losses."""
    env = DistillEnv(problem=tiny_problem, updates_per_step=1)
    env.reset(seed=0)
    raws = []
    for step in range(3):
        info = env.step(np.ones(3, np.int8))[4]
        raws.append(info["raw_losses"])
        if step == 0:
            np.testing.assert_allclose(info["scaled_losses"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(env.run.started().term_scale[0, 0].numpy(), np.mean(raws, axis=0), rtol=1e-6)


def test_teachers_of_a_term_share_its_scale() -> None:
    """However little one says, an equal mixture of teachers is their mean: losses keep their proportions."""
    env: Any = gym.make("kd_env/TeacherWeighting-v0", budget=3, updates_per_step=1).unwrapped
    env.reset(seed=0)
    raws = []
    for _ in range(3):
        info = env.step(np.ones(env.action_space.shape, np.float32))[4]
        raws.append(info["raw_losses"])
        divisors = info["raw_losses"] / info["scaled_losses"]
        np.testing.assert_allclose(divisors[1:], np.mean([one[1:] for one in raws]), rtol=1e-5)
        np.testing.assert_allclose(divisors[0], np.mean([one[0] for one in raws]), rtol=1e-5)
    assert env.unwrapped.action_names and len(raws[0]) == 4, "hard labels once, soft ones of three teachers"
    assert np.ptp(raws[0][1:]) > 0.01


def test_a_teacher_whose_loss_is_not_finite_leaves_the_scale_of_the_others_alone() -> None:
    """Its entry is left out of the loss where its weight is 0; a shared scale must not bring it back."""
    problem: Any = SimpleNamespace(present=np.array([[True, True], [False, True], [False, True]]))
    raw = torch.tensor([[[0.5, 1.0], [0.0, torch.nan], [0.0, 3.0]]])
    scale = gradients.running_scale(problem, torch.zeros_like(raw), torch.zeros(1), raw)
    assert scale.tolist() == [[[0.5, 2.0]] * 3]


def test_cached_equals_online(tiny: dict[str, Any], tmp_path: Any) -> None:
    """Teacher outputs from the cache, in memory and on disk, and from the teacher itself."""
    features = [*tiny["features"], "teacher_cls", "student_cls"]
    terms = [*tiny["terms"], "attention", "minilm", "relation", "cls"]
    options = {**tiny, "features": features, "terms": terms, "precision": "fp64"}
    losses = []
    for source in ({"teacher_source": "online"}, {}, {"cache_dir": str(tmp_path)}):
        env = DistillEnv(**options, **source)
        env.reset(seed=0)
        steps = [env.step(np.ones(len(terms), np.int8)) for _ in range(4)]
        losses.append(np.concatenate([[s[4]["loss"], s[1]] for s in steps]))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(losses[1], losses[2])


def test_same_seed_in_a_fresh_process_gives_the_same_bits(tiny: dict[str, Any]) -> None:
    """Repeat here and elsewhere; another seed differs."""
    code = (
        "import sys, json, hashlib, torch; torch.set_num_threads(1)\n"
        "from kd_env import DistillVectorEnv\n"
        "import numpy as np\n"
        "def trace(seed, options):\n"
        "    envs = DistillVectorEnv(2, **options, action_view='box'); envs.action_space.seed(1)\n"
        "    out = [envs.reset(seed=seed)[0]]\n"
        "    for _ in range(6):\n"
        "        step = envs.step(envs.action_space.sample()); out += [step[0], step[1]]\n"
        "    return hashlib.sha256(b''.join(part.tobytes() for part in out)).hexdigest()\n"
    )
    scope: dict[str, Any] = {}
    exec(code, scope)
    here = [scope["trace"](seed, tiny) for seed in (3, 3, 4)]
    assert here[0] == here[1] != here[2]
    script = code + f"print(trace(3, {tiny!r}))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip().splitlines()[-1] == here[0]


def test_learning_rate_rises_falls_and_is_never_negative() -> None:
    """Against a loop; 0 past the end of the schedule."""
    for budget in (1, 2, 7, 80):
        for warmup in (0.0, 0.1, 0.5, 1.0):
            rise = round(warmup * budget)
            for update in range(budget + 5):
                expected = (update + 1) / max(rise, 1) if update < rise else (budget - update) / max(budget - rise, 1)
                got = float(learning_rate_factor(np.array([update]), np.array([budget]), warmup)[0])
                assert got == pytest.approx(min(max(expected, 0.0), 1.0))
                assert got > 0 or update >= budget


def test_students_cut_from_the_teacher_start_with_its_layers(tiny: dict[str, Any]) -> None:
    """The encoder is copied (and the same for all seeds), the head is drawn, word embeddings are shared and frozen."""
    student = {"init": "teacher", "num_hidden_layers": 1, "layers": "last"}
    envs = DistillVectorEnv(2, **{**tiny, "student": student})
    envs.reset(seed=0)
    params = envs.run.started().params
    assert "bert.embeddings.word_embeddings.weight" not in params
    query = "attention.self.query.weight"
    teacher = envs.problem.reference.encoder.module.state_dict()
    for replica in range(2):
        assert torch.equal(params[f"bert.encoder.layer.0.{query}"][replica], teacher[f"bert.encoder.layer.1.{query}"])
    assert not torch.equal(params["classifier.weight"][0], params["classifier.weight"][1])
    assert not [name for name in params if name.startswith("projections.")], "equal widths need no projection"
    assert not envs.step(np.ones((2, 3), np.int8))[4]["diverged"].any()


def test_floored_gap_warns_and_is_told(tiny: dict[str, Any], tmp_path: Any) -> None:
    """A teacher that is no better than a fresh student would turn the reward round; the floor keeps its sign."""
    import json
    from pathlib import Path

    source = Path(tiny["data_dir"])
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        rows = [json.loads(line) for line in (source / f"{split}.jsonl").read_text().splitlines()]
        for row in rows:
            row["label"] = int(rng.integers(2))
        (tmp_path / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    env = DistillEnv(**{**tiny, "data_dir": str(tmp_path)})
    with pytest.warns(UserWarning, match="floor"):
        _, info = env.reset(seed=0)
    assert info["gap_floored"] is True
    assert env.run.started().gap_scale[0] == pytest.approx(0.05 * info["loss"])


def test_divergence_gap_needs_no_labels(tiny: dict[str, Any]) -> None:
    """``gap=divergence`` is the KL from the teacher; planted labels change nothing but the metric."""
    problem = build_problem(env_config(**{**tiny, "terms": ["soft_label"]}, gap="divergence"))
    env = DistillEnv(problem=problem)
    env.reset(seed=0)
    logits = env.predict(problem.feedback)
    p = torch.softmax(torch.as_tensor(problem.reference.feedback_logits).double(), -1)
    q = torch.log_softmax(torch.as_tensor(logits[0]).double(), -1)
    expected = float((p * (p.log() - q)).sum(-1).mean())
    assert env.run.started().loss[0] == pytest.approx(expected, rel=1e-5)
    assert problem.teacher_loss == 0.0


def test_dropout_trains_and_repeats(tiny: dict[str, Any]) -> None:
    """It changes the losses of training, not the evaluation, and a fork repeats it without the global generator."""
    options = {**tiny, "student": {**tiny["student"], "dropout": 0.5}}
    plain, env = DistillEnv(**tiny), DistillEnv(**options)
    _, first = plain.reset(seed=0)
    _, second = env.reset(seed=0)
    assert first["loss"] == second["loss"], "evaluation is without dropout"
    state = env.get_state()
    one = env.step(np.ones(3, np.int8))[4]
    torch.rand(7)
    env.set_state(state)
    two = env.step(np.ones(3, np.int8))[4]
    np.testing.assert_array_equal(one["raw_losses"], two["raw_losses"])
    assert not np.allclose(one["raw_losses"], plain.step(np.ones(3, np.int8))[4]["raw_losses"], rtol=1e-4)
