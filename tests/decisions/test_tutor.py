"""The tutor's environment: against an ordinary PyTorch loop, replicas against singles, and what must be refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kd_env.config.optimizer import OptimizerConfig
from kd_env.config.student import StudentConfig
from kd_env.decisions.options import env_config
from kd_env.decisions.tutor_token.text import masked_ids
from kd_env.envs import DistillVectorEnv
from kd_env.envs.build import build_problem
from kd_env.envs.environments import TutorTokenEnv
from kd_env.testing import check_environment

MODES = ("joint", "sequential")
VIEWS = ("native", "candidates", "discrete", "box")


def plain_scores(model: Any, hidden: list[torch.Tensor]) -> list[torch.Tensor]:
    """Attention scores before mask and softmax of a plain BERT, from the inputs of its blocks."""
    found = []
    for block, states in zip(model.encoder.layer, hidden, strict=False):
        own = block.attention.self
        shape = (*states.shape[:2], own.num_attention_heads, own.attention_head_size)
        query, key = (part(states).view(shape).transpose(1, 2) for part in (own.query, own.key))
        found.append(query @ key.transpose(-1, -2) / own.attention_head_size**0.5)
    return found


class Loop:
    """Tutor-KD as one would write it: Hugging Face models as they are, logits of whole rows, torch's AdamW."""

    def __init__(self, options: dict[str, Any], env: TutorTokenEnv) -> None:
        from transformers import BertForMaskedLM, BertForTokenClassification

        problem, state = env.problem, env.run.started()
        self.teacher = BertForMaskedLM.from_pretrained(
            options["teacher"], dtype=torch.float64, attn_implementation="eager"
        )
        self.teacher.eval()
        config = copy.deepcopy(problem.student.module.config)
        config._attn_implementation = "eager"
        self.student = BertForTokenClassification(config).double().eval()
        own = {name: p[0] for name, p in state.params.items() if not name.startswith("projections.")}
        self.student.load_state_dict({**problem.student.module.state_dict(), **own})
        self.projection = state.params["projections.hidden_states.shared"][0].clone().requires_grad_(True)
        everything = [*self.student.parameters(), self.projection]
        matrices = [p for p in everything if p.dim() > 1]
        others = [p for p in everything if p.dim() <= 1]
        o = problem.config.optimizer_config
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": o.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=o.learning_rate,
        )
        self.everything, self.config, self.updates = everything, problem.config, 0

    def step(self, env: TutorTokenEnv, tokens: np.ndarray) -> tuple[list[float], np.ndarray, np.ndarray]:
        """Losses, and the two rewards of each token, of one update."""
        problem, state = env.problem, env.run.started()
        batch = problem.train.gather(state.next_rows[0, 0])
        mask, positions = batch.attention_mask, torch.as_tensor(state.decision_state.positions[0])
        width = batch.input_ids.shape[1]
        masked = torch.as_tensor(masked_ids(problem, state)[0][:, :width])
        original = batch.input_ids.gather(-1, positions)
        chosen = torch.as_tensor(tokens)
        text = batch.input_ids.scatter(-1, positions, chosen)
        with torch.no_grad():
            before = self.teacher(masked, attention_mask=mask.long()).logits.softmax(-1)
            output = self.teacher(text, attention_mask=mask.long(), output_hidden_states=True)
            after = output.logits.softmax(-1)
            teacher_scores = plain_scores(self.teacher.bert, output.hidden_states)
        out = self.student(text, attention_mask=mask.long(), output_hidden_states=True)
        student_scores = plain_scores(self.student.bert, out.hidden_states)
        u = out.logits[..., 0]
        labels = torch.ones(u.shape, dtype=u.dtype)
        recognises, error = np.zeros(tokens.shape), np.zeros(tokens.shape)
        for row in range(len(tokens)):
            for slot, place in enumerate(positions[row].tolist()):
                x, a = int(original[row, slot]), int(chosen[row, slot])
                labels[row, place] = min(1.0, float(before[row, place, a] / before[row, place, x]))
                recognises[row, slot] = float(after[row, place, x] - after[row, place, a])
                error[row, slot] = abs(float(labels[row, place]) - float(torch.sigmoid(u[row, place].detach())))
        plausibility = F.binary_cross_entropy_with_logits(u[mask], labels[mask])
        hidden, attention = [], []
        for layer, other in problem.reference.pairs:
            gap = (out.hidden_states[layer] @ self.projection.T - output.hidden_states[other]).square().mean(-1)
            hidden.append(torch.stack([gap[row][mask[row]].mean() for row in range(len(tokens))]).mean())
            if layer:
                square = (student_scores[layer - 1] - teacher_scores[other - 1]).square().mean(1)
                rows = [square[row][mask[row]][:, mask[row]].mean() for row in range(len(tokens))]
                attention.append(torch.stack(rows).mean())
        losses = [plausibility, torch.stack(hidden).mean(), torch.stack(attention).mean()]
        total = 25 * losses[0] + 0.5 * losses[1] + 0.5 * losses[2]
        self.optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.everything, 1.0)
        warm = round(self.config.optimizer_config.warmup * self.config.budget)
        factor = (
            (self.updates + 1) / warm
            if self.updates < warm
            else (self.config.budget - self.updates) / (self.config.budget - warm)
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.optimizer_config.learning_rate * factor
        self.optimizer.step()
        self.updates += 1
        return [float(loss.detach()) for loss in losses], recognises, error


def test_a_literal_loop_gives_the_same_students_and_rewards(tiny_text: dict[str, Any], tutor_problem: Any) -> None:
    env = TutorTokenEnv(problem=tutor_problem)
    env.reset(seed=0)
    env.action_space.seed(0)
    loop = Loop(tiny_text, env)
    for _ in range(4):
        action = np.maximum(env.action_space.sample(), 1)  # Hugging Face gives the padding token no gradient
        losses, recognises, error = loop.step(env, action.reshape(4, 2))
        _, reward, _, _, info = env.step(action)
        np.testing.assert_allclose(info["losses"], losses, rtol=1e-6)
        np.testing.assert_allclose(info["teacher_recognises"], recognises, atol=1e-7)
        np.testing.assert_allclose(info["student_error"], error, atol=1e-7)
        assert reward == pytest.approx((recognises + error).mean(), abs=1e-7)
    for name, p in env.run.started().params.items():
        mine = loop.projection if name.startswith("projections.") else loop.student.get_parameter(name)
        torch.testing.assert_close(p[0], mine.detach(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("view", VIEWS)
def test_conformance(mode: str, view: str, tiny_text: dict[str, Any]) -> None:
    """Gymnasium's and SB3's checkers, finite observations, exact restore."""
    check_environment(TutorTokenEnv(**tiny_text, mode=mode, action_view=view))


@pytest.mark.parametrize(
    ("mode", "masking", "every"),
    [("joint", "fixed", 1), ("joint", "bernoulli", 1), ("sequential", "fixed", 2), ("sequential", "bernoulli", 1)],
)
def test_replicas_equal_singles_across_staggered_ends(
    mode: str, masking: str, every: int, tiny_text: dict[str, Any]
) -> None:
    """Unequal budgets, a time limit in the middle of a text and autoresets: everything as in separate environments."""
    options = {**tiny_text, "mode": mode, "masking": masking, "precision": "fp64", "slots": 3, "mask_rate": 0.3}
    options["teacher_every"] = every
    problem = build_problem(env_config(decision="tutor_token", **options))
    limit = 5 if mode == "sequential" else 3
    envs = DistillVectorEnv(3, problem=problem, max_episode_steps=limit)
    singles = [TutorTokenEnv(problem=problem, max_episode_steps=limit) for _ in range(3)]
    envs.reset(seed=[5, 6, 7])
    for index, env in enumerate(singles):
        env.reset(seed=5 + index)
    mask = np.array([False, True, False])
    envs.action_space.seed(0)
    first = envs.action_space.sample()
    envs.step(first)
    for index, env in enumerate(singles):
        env.step(first[index])
    # From here on one replica is a step behind the others.
    envs.reset(options={"reset_mask": mask, "budget": 2})
    singles[1].reset(options={"budget": 2})
    ends = 0
    for _ in range(14):
        actions = envs.action_space.sample()
        observation, rewards, terminated, truncated, info = envs.step(actions)
        for index, env in enumerate(singles):
            mine, reward, ended, cut, own = env.step(actions[index])
            assert (ended, cut) == (terminated[index], truncated[index])
            np.testing.assert_allclose(reward, rewards[index], rtol=1e-6)
            if ended or cut:
                ends += 1
                for name, part in mine.items():
                    np.testing.assert_allclose(info["final_obs"][index][name], part, rtol=1e-6, atol=1e-6)
                mine, own = env.reset()
            for name, part in mine.items():
                np.testing.assert_allclose(observation[name][index], part, rtol=1e-6, atol=1e-6)
            for name in ("loss", "losses", "tokens", "teacher_recognises", "plausibility"):
                np.testing.assert_allclose(info[name][index], own[name], rtol=1e-6, atol=1e-6)
    assert ends >= 6


@pytest.mark.parametrize("mode", MODES)
def test_same_seed_same_bits(mode: str, tiny_text: dict[str, Any]) -> None:
    def episode() -> list[Any]:
        env = TutorTokenEnv(**tiny_text, mode=mode)
        found = [env.reset(seed=3)[0]]
        env.action_space.seed(0)
        for _ in range(4):
            observation, reward, *_ = env.step(env.action_space.sample())
            found += [observation, {"reward": np.array(reward)}]
        return found

    for one, other in zip(episode(), episode(), strict=True):
        assert all(np.array_equal(part, other[name]) for name, part in one.items())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("view", ["native", "candidates"])
def test_every_component_of_an_action_changes_the_student(mode: str, view: str, tutor_problem: Any) -> None:
    env = TutorTokenEnv(problem=tutor_problem, mode=mode, action_view=view)
    env.reset(seed=0)
    start = env.get_state()
    steps = 1 if mode == "joint" else tutor_problem.reader.slots

    def outcome(place: int | None) -> tuple[float, np.ndarray]:
        env.set_state(start)
        for step in range(steps):
            action = np.zeros(env.action_space.shape, np.int64)
            if place is not None and step == place % steps:
                action[place // steps] = 1
            info = env.step(action)[4]
        return float(env.run.started().params["classifier.weight"].sum()), info["tokens"]

    plain = outcome(None)
    for place in range(steps * env.action_space.shape[0]):
        changed = outcome(place)
        # With the teacher's lists an early choice changes what a later rank means.
        others = steps if view == "candidates" else 1
        assert changed[0] != plain[0] and 1 <= (changed[1] != plain[1]).sum() <= others


@pytest.mark.parametrize("view", ["discrete", "box"])
def test_every_choice_of_the_small_views_writes_other_tokens(view: str, tutor_problem: Any) -> None:
    env = TutorTokenEnv(problem=tutor_problem, action_view=view)
    env.reset(seed=0)
    start = env.get_state()
    actions: list[Any] = (
        list(range(tutor_problem.config.num_candidates)) if view == "discrete" else [(-1, 1), (1, 1), (1, 0)]
    )
    seen = set()
    for action in actions:
        env.set_state(start)
        seen.add(tuple(env.step(np.asarray(action, np.float32 if view == "box" else np.int64))[4]["tokens"].ravel()))
    assert len(seen) == len(actions)


def test_box_controls_mean_what_they_say(tutor_problem: Any) -> None:
    """Share -1 keeps the text as it is; difficulty orders the teacher's probability of what is sampled."""
    envs = DistillVectorEnv(16, problem=tutor_problem, action_view="box")
    envs.reset(seed=0)
    start = envs.get_state()
    probabilities = []
    for difficulty in (-1.0, 0.0, 1.0):
        envs.set_state(start)
        info = envs.step(np.tile(np.array([difficulty, 1.0], np.float32), (16, 1)))[4]
        probabilities.append(float(info["teacher_probability"].mean()))
    assert probabilities[0] > probabilities[1] > probabilities[2]
    envs.set_state(start)
    info = envs.step(np.tile(np.array([0.0, -1.0], np.float32), (16, 1)))[4]
    assert np.array_equal(info["tokens"], info["originals"]) and (info["plausibility"] == 1).all()


def test_candidates_are_the_teachers_and_rank_zero_its_best(tutor_problem: Any) -> None:
    env = TutorTokenEnv(problem=tutor_problem, action_view="candidates")
    observation, _ = env.reset(seed=0)
    log_probabilities = env.log_probabilities()[0]
    assert torch.allclose(log_probabilities.exp().sum(-1), torch.ones((), dtype=torch.float64))
    best = log_probabilities.topk(tutor_problem.config.num_candidates, dim=-1)
    shape = (env.batch_size, env.slots, env.num_candidates)
    assert np.array_equal(observation["candidates"].reshape(shape), best.indices.numpy())
    np.testing.assert_allclose(observation["probabilities"].reshape(shape), best.values.exp().numpy(), rtol=1e-6)
    info = env.step(np.zeros(env.action_space.shape, np.int64))[4]
    assert np.array_equal(info["tokens"], best.indices[..., 0].numpy())


def test_later_choices_see_earlier_ones(tutor_problem: Any) -> None:
    """After a choice the teacher's opinion about the next slot depends on it, where it reads the text again."""
    seen: dict[int, list[Any]] = {1: [], 2: []}
    for every, found in seen.items():
        env = TutorTokenEnv(problem=tutor_problem, mode="sequential", teacher_every=every)
        env.reset(seed=0)
        start = env.get_state()
        for token in (7, 8):
            env.set_state(start)
            observation, reward, _, _, info = env.step(np.full(env.action_space.shape, token))
            assert reward == 0 and not info["updated"] and info["updates"] == 0
            chosen = observation["chosen"].reshape(4, 2)
            assert (chosen[:, 0] == token).all() and (chosen[:, 1] == env.vocab_size).all()
            found.append(observation["probabilities"])
    assert not np.array_equal(*seen[1]) and np.array_equal(*seen[2])


def test_sequential_and_joint_choices_of_the_same_tokens_teach_the_same(tutor_problem: Any) -> None:
    joint, sequential = (TutorTokenEnv(problem=tutor_problem, mode=mode) for mode in MODES)
    for env in (joint, sequential):
        env.reset(seed=4)
    tokens = np.random.default_rng(0).integers(5, 45, (4, 2))
    _, reward, _, _, info = joint.step(tokens.ravel())
    first = sequential.step(tokens[:, 0])[1]
    _, second, _, _, other = sequential.step(tokens[:, 1])
    assert (first, second) == (0.0, reward)
    for name in ("losses", "loss", "tokens", "plausibility"):
        assert np.array_equal(info[name], other[name])


def test_an_episode_that_is_cut_off_is_evaluated_at_its_end(tutor_problem: Any) -> None:
    """With evaluations at the end only, a time limit in the middle of a text is an end, too."""
    options = {"mode": "sequential", "evaluate_every": 0, "max_episode_steps": 3, "reward": "loss_drop"}
    env = TutorTokenEnv(problem=tutor_problem, **options)
    before = env.reset(seed=0)[1]["loss"]
    rewards = []
    for _ in range(3):
        _, reward, ended, cut, info = env.step(np.full(env.action_space.shape, 9))
        rewards.append(reward)
    assert cut and not ended and info["updates"] == 1
    assert rewards[:2] == [0.0, 0.0] and rewards[2] == pytest.approx(before - info["loss"]) and rewards[2] != 0


def test_a_teacher_of_another_cut_is_marked() -> None:
    """The packaged teacher was trained on the train texts of split seed 0."""
    for split_seed, expected in ((0, "no"), (7, "unknown")):
        problem = build_problem(env_config(decision="tutor_token", split_seed=split_seed))
        assert problem.reference.saw_feedback == expected


def test_a_few_options_of_a_student_keep_the_other_defaults() -> None:
    config = env_config(decision="tutor_token", student={"num_hidden_layers": 2})
    assert (config.student_config.num_attention_heads, config.student_config.num_hidden_layers) == (4, 2)


def test_a_student_that_knows_something_has_a_small_step_by_default() -> None:
    cut = env_config(
        decision="tutor_token", student={"init": "teacher", "num_hidden_layers": 1}, optimizer={"warmup": 0.2}
    )
    assert cut.optimizer_config.learning_rate == 3e-4 and cut.optimizer_config.warmup == 0.2
    ready = {"init": "pretrained", "name_or_path": "folder"}
    for student, options, rate in (
        (StudentConfig(init="teacher", num_hidden_layers=1), {"learning_rate": None}, 3e-4),
        (ready, {}, 3e-4),
        ({"num_hidden_layers": 2}, {"learning_rate": None}, 7e-3),
        ({"init": "teacher"}, {"learning_rate": 0.01}, 0.01),
    ):
        task = "toy" if student is ready else None
        config = env_config(decision="tutor_token", student=student, optimizer=options, task=task)
        assert config.to_dict()["optimizer"]["learning_rate"] == config.optimizer_config.rate == rate
    assert env_config(decision="tutor_token").optimizer_config == OptimizerConfig(7e-3)
    assert env_config(**cut.to_dict()) == cut


def test_texts_that_are_longer_than_the_teacher_reads_are_refused(tiny_text: dict[str, Any], tmp_path: Any) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(f"w{i} " + "w1 " * (40 + i) for i in range(30)))
    options = {**tiny_text, "text": str(tmp_path), "feedback_rows": 4, "selection_rows": 4}
    with pytest.raises(ValueError, match="only 32 positions; set max_length"):
        TutorTokenEnv(**options)
    assert TutorTokenEnv(**{**options, "max_length": 32}).problem.reader.ids.shape[1] == 32


def test_the_padding_token_is_a_token_like_any_other(tutor_problem: Any) -> None:
    """Chosen for a slot, it teaches stacked students what it teaches single ones."""
    envs, single = DistillVectorEnv(2, problem=tutor_problem), TutorTokenEnv(problem=tutor_problem)
    envs.reset(seed=[3, 4])
    single.reset(seed=4)
    for _ in range(2):
        envs.step(np.zeros((2, 8), np.int64))
        single.step(np.zeros(8, np.int64))
    for name, p in single.run.started().params.items():
        torch.testing.assert_close(envs.run.started().params[name][1], p[0], rtol=1e-9, atol=1e-10)


def test_rewards_by_name(tutor_problem: Any) -> None:
    found: dict[str, float] = {}
    for name in ("tutor", "teacher_recognises", "student_error", "gap_closed", "loss_drop"):
        env = TutorTokenEnv(problem=tutor_problem, reward=name)
        before = env.reset(seed=0)[1]
        _, found[name], _, _, info = env.step(np.full(env.action_space.shape, 9))
        if name in info:
            assert found[name] == pytest.approx(info[name].mean() if name != "gap_closed" else info[name])
    assert found["tutor"] == pytest.approx(found["teacher_recognises"] + found["student_error"])
    assert found["loss_drop"] == pytest.approx(before["loss"] - info["loss"])
    scale = before["loss"] - tutor_problem.teacher_loss
    assert found["gap_closed"] == pytest.approx(found["loss_drop"] / scale)


def test_special_tokens_are_never_masked_and_evaluated_rows_are_apart(tutor_problem: Any) -> None:
    env = DistillVectorEnv(8, problem=tutor_problem)
    env.reset(seed=0)
    state = env.run.started()
    places = np.take_along_axis(tutor_problem.reader.ids[state.next_rows[:, 0]], state.decision_state.positions, -1)
    assert not np.isin(places, tutor_problem.reader.tokens.special_ids).any()
    assert tutor_problem.feedback.content_hash() != tutor_problem.train.content_hash()
    assert len(tutor_problem.feedback) == 24


def test_rows_that_are_too_short_are_left_out_and_counted(tiny_text: dict[str, Any]) -> None:
    problem = build_problem(env_config(decision="tutor_token", **{**tiny_text, "slots": 6}))
    assert problem.reader.left_out > 0 and problem.reader.slots == 6
    assert (problem.reader.ordinary.sum(1) >= 6).all()


def test_a_student_cut_from_the_teacher_and_its_folder(tiny_text: dict[str, Any], tmp_path: Any) -> None:
    """It starts as the teacher's layer, and classifiers are made from what is saved."""
    from kd_env.models.pretrained import load_encoder

    options = {**tiny_text, "student": {"init": "teacher", "num_hidden_layers": 1}}
    env = TutorTokenEnv(**options)
    env.reset(seed=0)
    own = env.run.started().params["bert.encoder.layer.0.output.dense.weight"][0].clone()
    assert torch.equal(own, env.problem.reader.model.module.get_parameter("bert.encoder.layer.0.output.dense.weight"))
    env.step(np.full(env.action_space.shape, 9))
    after = env.run.started().params["bert.encoder.layer.0.output.dense.weight"][0]
    assert not torch.equal(own, after)
    assert torch.equal(own, env.problem.reader.model.module.get_parameter("bert.encoder.layer.0.output.dense.weight"))
    env.save_student(tmp_path / "student")
    model = load_encoder(str(tmp_path / "student"), num_labels=3)
    assert torch.equal(model.bert.encoder.layer[0].output.dense.weight, after)


def test_divergence_ends_the_episode_of_that_replica(tutor_problem: Any) -> None:
    envs = DistillVectorEnv(2, problem=tutor_problem, autoreset_mode="disabled")
    envs.reset(seed=0)
    state = envs.get_state()
    state.run.params["classifier.weight"][1] = float("nan")
    envs.set_state(state)
    _, rewards, terminated, _, info = envs.step(np.full((2, 8), 9))
    assert all(np.isfinite(info[name]).all() for name in ("teacher_recognises", "student_error", "plausibility"))
    assert terminated.tolist() == [False, True] and info["diverged"].tolist() == [False, True]
    assert rewards[1] == -1.0 and np.isfinite(rewards[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_rate": 0.0}, "mask_rate=0.0"),
        ({"mask_rate": 1.0}, "mask_rate=1.0"),
        ({"slots": 0}, "slots=0"),
        ({"slots": 60}, "60 ordinary tokens"),
        ({"teacher_source": "cached"}, "no output of the teacher can be cached"),
        ({"action_view": "subset"}, "candidates"),
        ({"mode": "both"}, "sequential"),
        ({"teacher_every": 2}, "mode='sequential'"),
        ({"student": {"zero_head": True}}, "zero_head=True is not supported"),
        ({"losses": {"plausible": 1.0}}, "Did you mean 'plausibility'"),
        ({"losses": {"plausibility": 0.0}}, "weigh nothing"),
        ({"reward": "gap"}, "gap_closed"),
        ({"num_candidates": 99}, "num_candidates=99 is more than the 45 tokens"),
        ({"student": {"hidden_size": 8, "num_attention_heads": 4}}, "4 heads and the teacher 2"),
        ({"student": {"init": "pretrained", "name_or_path": "x"}}, "student.init='pretrained'"),
        ({"budgets": 3}, "Did you mean 'budget'"),
        ({"slots": "all"}, "set masking='bernoulli'"),
        ({"slots": "most"}, "slots='most'"),
        ({"recipe": "papers"}, "Did you mean 'paper'"),
        ({"layer_reduction": "max"}, "mean, sum"),
        ({"projection": "never"}, "always, auto"),
        ({"student_head": "dense"}, "linear, mlm"),
        ({"text": "rte"}, "data_dir"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str, tiny_text: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        TutorTokenEnv(**{**tiny_text, **options})


def test_a_teacher_without_head_is_refused_with_the_command(tiny_text: dict[str, Any], tiny: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="kd-env teacher objective=mlm"):
        TutorTokenEnv(**{**tiny_text, "teacher": tiny["teacher"]})


@pytest.mark.parametrize(
    ("view", "action", "message"),
    [
        ("native", [45] * 8, r"45, outside \[0, 44\]"),
        ("native", [-1] * 8, "-1, outside"),
        ("native", [1] * 7, r"shape \(1, 7\).*1 replicas"),
        ("candidates", [4] * 8, r"outside \[0, 3\]"),
        ("discrete", 4, r"outside \[0, 3\]"),
        ("box", [0.0, 1.5], "1.5, outside"),
        ("box", [0.0, float("nan")], "nan, outside"),
        ("native", [1.0] * 7 + [2.5], "holds 2.5.*whole numbers"),
        ("native", ["a"] * 8, "numbers"),
    ],
)
def test_bad_actions_are_refused(view: str, action: Any, message: str, tutor_problem: Any) -> None:
    env = TutorTokenEnv(problem=tutor_problem, action_view=view)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(np.asarray(action))
    assert env.step(env.action_space.sample())[4]["updates"] == 1


def test_options_of_reset_are_checked(tutor_problem: Any) -> None:
    env = TutorTokenEnv(problem=tutor_problem)
    for options in ({"reset_mask": np.array([True])}, {"budgets": 2}):
        with pytest.raises(ValueError, match="Unknown reset option"):
            env.reset(options=options)
    env.reset(options={"budget": 1})
    assert env.step(env.action_space.sample())[2]


@pytest.mark.parametrize(
    ("agent", "view"),
    [("sb3/ppo", "candidates"), ("sb3/dqn", "discrete"), ("sb3/sac", "box"), ("actor_critic", "candidates")],
)
def test_every_kind_of_agent_learns_from_flat_observations(agent: str, view: str, tutor_problem: Any) -> None:
    from agents import make_agent

    env = DistillVectorEnv(2, problem=tutor_problem, action_view=view, observation="flat")
    options: dict[str, Any] = {"batch_size": 4} if agent == "sb3/ppo" else {}
    options |= {"learning_starts": 4} if agent in ("sb3/dqn", "sb3/sac") else {}
    learner = make_agent(agent, env, seed=0, **options).learn(16)
    observation, _ = env.reset(seed=0)
    actions, _ = learner.predict(observation, deterministic=True)
    assert env.action_space.contains(actions)


def test_flat_observations_are_the_parts_of_the_others(tutor_problem: Any) -> None:
    envs = [TutorTokenEnv(problem=tutor_problem, observation=kind) for kind in ("flat", "dict")]
    flat, parts = (env.reset(seed=0)[0] for env in envs)
    assert envs[0].observation_space.contains(flat) and not envs[1].observation_layout
    stop = 0
    for name, part in envs[0].observation_layout.items():
        assert part.start == stop and np.array_equal(flat[part.slice], parts[name].astype(np.float32))
        stop = part.stop
    assert stop == len(flat)
    check_environment(TutorTokenEnv(problem=tutor_problem, observation="flat", action_view="candidates"))


@pytest.mark.parametrize(("agent", "view"), [("ppo", "candidates"), ("dqn", "discrete"), ("sac", "box")])
def test_sb3_is_refused_on_whole_vocabularies_with_the_view_that_works(
    agent: str, view: str, tutor_problem: Any
) -> None:
    from agents import make_agent

    with pytest.raises(ValueError, match=f"action_view='{view}'"):
        make_agent(f"sb3/{agent}", DistillVectorEnv(1, problem=tutor_problem, observation="flat"), seed=0)
    with pytest.raises(ValueError, match="observation='flat'"):
        make_agent(f"sb3/{agent}", DistillVectorEnv(1, problem=tutor_problem, action_view=view), seed=0)
