"""Co-fine-tuning: one pooling and one prediction layer under several encoders, and members that stand alone."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import kd_env
from kd_env.core.records import members
from kd_env.core.types import Batch, Signal
from kd_env.decisions.options import env_config
from kd_env.finetuning import loop
from kd_env.finetuning.classifier import TeacherConfig, finetune, teacher_record
from kd_env.finetuning.co_classifier import CoTeacherConfig, cofinetune
from kd_env.models import encoder as models
from kd_env.models import pretrained
from kd_env.models.export import write_student
from kd_env.models.library import attention
from kd_env.models.pooling import AttentionPooling, PooledClassifier
from kd_env.models.students.cut import cut_encoder

SHARED = ("pooling.project.weight", "pooling.project.bias", "pooling.score.weight", "prediction.weight")
Make = Callable[..., CoTeacherConfig]


@pytest.fixture(scope="module")
def start(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny encoder with dropout, so that equal weights show that its draws repeat, too."""
    folder = tmp_path_factory.mktemp("start") / "encoder"
    shutil.copytree(tiny["teacher"], folder)
    settings = json.loads((folder / "config.json").read_text())
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    (folder / "config.json").write_text(json.dumps({**settings, **dropout}))
    return str(folder)


def options(tiny: dict[str, Any], start: str, output: Path) -> dict[str, Any]:
    return {
        "task": "custom",
        "data_dir": tiny["data_dir"],
        "columns": tiny["columns"],
        "feedback_rows": 32,
        "selection_rows": 32,
        "output": str(output),
        "members": [
            {"name": "whole", "name_or_path": start},
            {"name": "narrow", "name_or_path": start, "init": "fresh", "hidden_size": 8, "intermediate_size": 12},
            {"name": "shallow", "name_or_path": start, "num_hidden_layers": 1},
        ],
        "epochs": 2,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "evaluations_per_epoch": 2,
        "show_progress": False,
        "device": "cpu",
    }


@pytest.fixture
def make(tiny: dict[str, Any], start: str, tmp_path: Path) -> Make:
    def config(**changes: Any) -> CoTeacherConfig:
        return CoTeacherConfig.from_kwargs(**{**options(tiny, start, tmp_path / "set"), **changes})

    return config


@pytest.fixture(scope="module")
def ready(tiny: dict[str, Any], start: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished set of three members, two of them of another width or depth."""
    output = tmp_path_factory.mktemp("ready") / "set"
    return cofinetune(CoTeacherConfig.from_kwargs(**options(tiny, start, output)))


class Interrupted(Exception):
    pass


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = load_file(str(folder / "model.safetensors"))
    return {**{f"encoder.{name}": tensor for name, tensor in found.items()}, **pooling(folder)}


def pooling(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(str(folder / "pooling.safetensors"))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def write_encoder(folder: Path, kind: str, tiny: dict[str, Any], *, hidden_size: int) -> str:
    """A random encoder of an architecture, beside the tiny task's tokenizer."""
    import transformers

    known = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "hidden_size": hidden_size}
    if kind == "DistilBert":
        known = {"n_layers": 2, "n_heads": 2, "hidden_dim": 16, "dim": hidden_size}
    config = getattr(transformers, f"{kind}Config")(vocab_size=50, max_position_embeddings=40, pad_token_id=0, **known)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(tiny["teacher"]) / name, folder)
    return str(folder)


def encoder_of(folder: Path, dtype: torch.dtype = torch.float32) -> models.Encoder:
    module = pretrained.load_encoder(str(folder)).to(dtype)
    return models.Encoder.build(module, train_embeddings=True, fresh="none")


def some_batch(lengths: tuple[int, ...] = (9, 4, 6), width: int = 9, seed: int = 0) -> Batch:
    ids = torch.randint(5, 45, (len(lengths), width), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    return Batch(ids * mask, mask, torch.zeros_like(ids), torch.tensor([0, 1, 1]))


# -- the model


def test_pooling_equals_its_formula() -> None:
    """Token by token, with the weights of real tokens alone."""
    torch.manual_seed(0)
    layer = AttentionPooling(5).double()
    hidden, lengths = torch.randn(3, 6, 5, dtype=torch.float64), (6, 2, 1)
    real = torch.arange(6) < torch.tensor(lengths)[:, None]
    found = layer(hidden, real)
    weight, bias, query = (
        t.detach().numpy() for t in (layer.project.weight, layer.project.bias, layer.score.weight[0])
    )
    for row, length in enumerate(lengths):
        values = [math.exp(query @ np.tanh(weight @ h + bias)) for h in hidden[row, :length].numpy()]
        expected = sum(v / sum(values) * h for v, h in zip(values, hidden[row, :length].numpy(), strict=True))
        np.testing.assert_allclose(found[row].detach(), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["whole", "narrow"])
def test_padding_does_not_reach_the_logits(ready: Path, name: str) -> None:
    """Rows in a padded batch as alone, whatever stands in the padding, through both kinds of mask."""
    encoder = encoder_of(ready / name)
    batch = some_batch()
    logits = encoder.forward({}, batch, ()).logits
    for row, length in enumerate((9, 4, 6)):
        alone = Batch(
            *(field[row : row + 1, :length] if field.dim() == 2 else field[row : row + 1] for field in batch[:4])
        )
        torch.testing.assert_close(encoder.forward({}, alone, ()).logits[0], logits[row], rtol=1e-5, atol=1e-6)
    garbage = batch._replace(input_ids=batch.input_ids.where(batch.attention_mask, 7))
    torch.testing.assert_close(encoder.forward({}, garbage, ()).logits, logits, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        plain = encoder.module(batch.input_ids, batch.attention_mask.long(), batch.token_type_ids)
    torch.testing.assert_close(plain.logits, logits, rtol=1e-5, atol=1e-6)


def test_stacked_parameters_under_vmap(ready: Path) -> None:
    """``vmap`` over the parameters equals a loop, in logits and hidden states."""
    encoder = encoder_of(ready / "narrow", torch.float64)
    own = {name: encoder.module.get_parameter(name).detach() for name in encoder.trainable}
    stacked = {name: torch.stack([tensor, 0.9 * tensor]) for name, tensor in own.items()}
    batch, signals = some_batch(), [Signal("hidden_states", 2), Signal("cls", 2)]

    def forward(params: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        out = encoder.forward(params, batch, signals, eager=True)
        return out.logits, out.hidden_states[2]

    logits, hidden = torch.func.vmap(forward)(stacked)
    for place in range(2):
        one = forward({name: tensor[place] for name, tensor in stacked.items()})
        torch.testing.assert_close(logits[place], one[0], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(hidden[place], one[1], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(logits[0], logits[1])


def test_an_eager_forward_leaves_no_trace(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training is bit-equal whatever ran in the process before: attention goes back to the fused kernel."""
    fused, calls = torch.nn.functional.scaled_dot_product_attention, []
    monkeypatch.setattr(
        attention.F, "scaled_dot_product_attention", lambda *args, **rest: calls.append(1) or fused(*args, **rest)
    )
    encoder, batch = encoder_of(ready / "whole"), some_batch()
    encoder.forward({}, batch, (), eager=True)
    assert not calls
    encoder.module(batch.input_ids, batch.attention_mask.long())
    assert len(calls) == 2


# -- joint training


def capture(make: Make, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[Any, ...]:
    """Arguments of the first update; training ends there."""
    found: list[Any] = []

    def stop(*arguments: Any) -> float:
        found.append(arguments)
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_update", stop)
        with pytest.raises(Interrupted):
            cofinetune(make(resume=False, **changes))
    return tuple(found[0])


def test_the_joint_loss_is_the_sum_of_the_members_cross_entropies(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Member by member and row by row; each member adds to the shared layers' gradients, and to no other encoder's."""
    config, data, trainee, optimizer, rows, step, _ = capture(make, monkeypatch, max_grad_norm=1e9)
    for module in trainee.module.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for model in trainee.classifiers:
        model.config.attention_probs_dropout_prob = 0.0
        for block in model.modules():
            if hasattr(block, "dropout_prob"):
                block.dropout_prob = 0.0
    parameters = dict(trainee.module.named_parameters())
    expected, alone = 0.0, []
    for model in trainee.classifiers:
        total = torch.zeros(())
        for row in rows:
            batch = data.train.gather(np.array([row]))
            logits = model(batch.input_ids, batch.attention_mask.long()).logits[0]
            total = total - torch.log_softmax(logits, -1)[data.train.labels[row]] / len(rows)
        expected += float(total.detach())
        grads = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        alone.append(dict(zip(parameters, grads, strict=True)))
    value = loop._update(config, data, trainee, optimizer, rows, step, 0.0)
    assert value == pytest.approx(expected, rel=1e-5)
    shared = 0
    for name, parameter in parameters.items():
        parts = [grads[name] for grads in alone if grads[name] is not None]
        if "pooling." in name or "prediction." in name:
            shared += 1
            assert len(parts) == 3, f"{name} must learn from every member"
        else:
            assert len(parts) == ("pooler" not in name), f"{name} belongs to one member"
        if parts:
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, sum(parts), rtol=1e-3, atol=1e-5)
    assert shared == 5, "the shared tensors are there once"


def test_the_set_learns_and_says_how_it_was_made(make: Make, tmp_path: Path) -> None:
    """On sentences whose label is whether they hold the word w0 or w1."""
    rng, lines = np.random.default_rng(0), []
    for label in rng.integers(2, size=240).tolist():
        words = [f"w{label}", *(f"w{index}" for index in rng.integers(2, 40, size=rng.integers(3, 10)))]
        lines.append(json.dumps({"text": " ".join(rng.permutation(words)), "label": label}))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(lines) + "\n")
    seen: list[dict[str, Any]] = []
    before = torch.random.get_rng_state()
    folder = cofinetune(make(data_dir=str(tmp_path / "data"), epochs=4, learning_rate=0.02), on_evaluation=seen.append)
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator must stay as it was"
    assert {path.name for path in tmp_path.iterdir()} == {"data", "set"}, "no checkpoint is left"
    record = json.loads((folder / "kd_env_set.json").read_text())
    assert (record["members"], record["shared_width"]) == (["whole", "narrow", "shallow"], 16)
    assert record["history"] == seen and len(seen) == 8
    for entry in seen:
        losses = [one["loss"] for one in entry["members"].values()]
        assert entry["loss"] == pytest.approx(sum(losses))
        assert entry["accuracy"] == pytest.approx(np.mean([one["accuracy"] for one in entry["members"].values()]))
    best = min(seen, key=lambda entry: (entry["loss"], -entry["accuracy"]))
    assert record["best_step"] == best["step"] and record["selection"]["members"] == best["members"]
    assert all(one["accuracy"] >= 0.9 for one in best["members"].values()), best
    assert [path.name for path in members(folder)] == record["members"]
    for path in members(folder):
        own = teacher_record(path) or {}
        assert own["selection"] == best["members"][path.name] and own["temperature"] > 0
        assert (own["trained_on"], own["fingerprint"]) == ("train", record["fingerprint"])
        assert own["set"] == {"members": record["members"], "shared_width": 16, "name": path.name}


def test_shared_layers_are_equal_in_every_folder_and_encoders_are_not(ready: Path) -> None:
    found = {path.name: pooling(path) for path in members(ready)}
    for name in (*SHARED, "prediction.bias"):
        assert all(torch.equal(one[name], found["whole"][name]) for one in found.values()), name
    assert set(found["narrow"]) - set(found["whole"]) == {"width_map.weight", "width_map.bias"}
    assert set(found["shallow"]) == set(found["whole"])
    a, b = tensors(ready / "whole"), tensors(ready / "shallow")
    assert not torch.equal(*(t["encoder.encoder.layer.0.output.dense.weight"] for t in (a, b)))


def test_a_loaded_member_says_what_the_trained_one_said(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits on the selection rows, and the same from a copy of its folder elsewhere."""
    found: list[Any] = []
    evaluate = loop.evaluate

    def spy(config: Any, data: Any, trainee: Any) -> Any:
        found[:] = [data, evaluate(config, data, trainee)]
        return found[1]

    monkeypatch.setattr("kd_env.finetuning.co_classifier.evaluate", spy)
    folder = cofinetune(make())
    data, evaluations = found
    for path, expected in zip(members(folder), evaluations, strict=True):
        encoder = encoder_of(path.rename(path.with_name(f"moved-{path.name}")))
        assert isinstance(encoder.module, PooledClassifier)
        with torch.no_grad():
            logits = encoder.forward({}, data.selection.gather(np.arange(32)), ()).logits
        np.testing.assert_allclose(logits, expected.logits, rtol=1e-4, atol=1e-5)
        assert pretrained.load_tokenizer(str(path.with_name(f"moved-{path.name}"))).pad_token_id == 0


def test_the_shared_width_is_an_option(make: Make) -> None:
    folder = cofinetune(make(shared_width=8, epochs=1))
    assert pooling(folder / "narrow")["prediction.weight"].shape == (2, 8)
    assert "width_map.weight" not in pooling(folder / "narrow")
    assert pooling(folder / "whole")["width_map.weight"].shape == (8, 16)


def test_regression_and_one_member_alone(tiny_regression: dict[str, Any], tmp_path: Path) -> None:
    one = [{"name": "only", "name_or_path": tiny_regression["teacher"]}]
    folder = cofinetune(
        CoTeacherConfig.from_kwargs(**{**options(tiny_regression, "", tmp_path / "set"), "members": one, "epochs": 1})
    )
    record = teacher_record(folder / "only") or {}
    assert set(record["selection"]) == {"loss", "pearson", "spearmanr"} and record["temperature"] is None
    assert json.loads((folder / "kd_env_set.json").read_text())["selection"]["members"]["only"] == record["selection"]
    problem = kd_env.build_problem(
        env_config(**{**tiny_regression, "teacher": str(folder / "only"), "teacher_check": "none"})
    )
    assert np.isfinite(problem.teacher_loss)


def test_architectures_may_be_mixed(make: Make, tiny: dict[str, Any], tmp_path: Path) -> None:
    """With and without a pooler, segments or a block of its own for every layer; each teaches, and can be cut."""
    given = []
    for kind in ("Roberta", "DistilBert", "Electra", "Albert"):
        given.append({"name": kind, "name_or_path": write_encoder(tmp_path / kind, kind, tiny, hidden_size=12)})
    folder = cofinetune(make(members=given, epochs=1))
    for path in members(folder):
        student = {"init": "teacher", "num_hidden_layers": 2 if path.name == "Albert" else 1}
        options = {**tiny, "teacher": str(path), "student": student, "max_length": 20, "teacher_check": "none"}
        problem = kd_env.build_problem(env_config(**options))
        assert type(problem.student.module.encoder).__name__ == f"{path.name}Model"


# -- resume and outputs


@pytest.mark.parametrize("at", [1, 3])
def test_an_interrupted_run_ends_in_the_same_weights(make: Make, ready: Path, at: int) -> None:
    config, seen = make(), 0

    def stop(entry: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            raise Interrupted

    with pytest.raises(Interrupted):
        cofinetune(config, on_evaluation=stop)
    assert not Path(config.output).exists()
    resumed = cofinetune(config, on_evaluation=stop)
    assert seen == 4, "the resumed run must not repeat what was done"
    for name in ("whole", "narrow", "shallow"):
        assert same(tensors(ready / name), tensors(resumed / name)), name
        assert teacher_record(ready / name) == teacher_record(resumed / name)


def test_a_finished_set_is_returned_and_never_overwritten(make: Make, ready: Path, tmp_path: Path) -> None:
    def never(entry: dict[str, Any]) -> None:
        raise AssertionError("nothing is to be trained")

    here = dataclasses.replace(make(), output=str(ready))
    assert cofinetune(here, on_evaluation=never) == ready
    changed = dataclasses.replace(here, members=here.members[:2])
    with pytest.raises(ValueError, match=r"The teacher set in .*other options: members .*choose another output"):
        cofinetune(changed)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="no teacher set made here"):
        cofinetune(make())
    assert (tmp_path / "set" / "notes.txt").read_text() == "mine"
    task = {"task": "custom", "data_dir": here.data_dir, "columns": here.columns}
    alone = {"name_or_path": str(ready / "whole"), "output": str(ready), **task}
    with pytest.raises(ValueError, match="no teacher made here"):
        finetune(TeacherConfig.from_kwargs(**alone))


def test_another_configuration_does_not_continue_a_checkpoint(make: Make) -> None:
    def stop(entry: dict[str, Any]) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        cofinetune(make(), on_evaluation=stop)
    with pytest.raises(ValueError, match=r"seed \(0 there, 1 here\).*resume=false"):
        cofinetune(make(seed=1))


# -- provenance


def saw_feedback(tiny: dict[str, Any], folder: Path) -> str:
    problem = kd_env.build_problem(env_config(**{**tiny, "teacher": str(folder), "teacher_check": "none"}))
    return str(problem.summary()["saw_feedback"])


def test_what_one_member_had_seen_counts_for_all(make: Make, tiny: dict[str, Any], start: str, tmp_path: Path) -> None:
    """Shared layers pass it on. A fresh encoder has seen nothing, wherever its architecture comes from."""
    fresh = [
        {"name": name, "name_or_path": start, "init": "fresh", "num_hidden_layers": 1, "hidden_size": width}
        for name, width in (("a", 8), ("b", 12))
    ]
    clean = cofinetune(make(members=fresh, epochs=1))
    assert all((teacher_record(path) or {})["source"] is None for path in members(clean))
    assert {saw_feedback(tiny, path) for path in members(clean)} == {"no"}
    # ``start`` has a prediction layer, and nobody knows on which rows it was trained.
    mixed = cofinetune(
        make(members=[*fresh, {"name": "c", "name_or_path": start}], epochs=1, output=str(tmp_path / "mixed"))
    )
    for path in members(mixed):
        assert (teacher_record(path) or {})["source"] == {"trained_on": "unknown", "source": None}
        assert saw_feedback(tiny, path) == "unknown"
    again = [{"name": "d", "name_or_path": str(clean / "a")}, *fresh[1:]]
    third = cofinetune(make(members=again, epochs=1, output=str(tmp_path / "third")))
    assert {saw_feedback(tiny, path) for path in members(third)} == {"no"}
    assert {(teacher_record(path) or {})["source"]["trained_on"] for path in members(third)} == {"train"}


# -- members as teachers


@pytest.mark.filterwarnings("ignore:The teacher's loss")  # it is hardly trained
def test_a_member_teaches_cached_and_online(ready: Path, tiny: dict[str, Any]) -> None:
    """The same losses and observations, within rounding."""
    seen = []
    for source in ("cached", "online"):
        env = gym.make(
            "kd_env/KnowledgeSelection-v0",
            **{
                **tiny,
                "teacher": str(ready / "narrow"),
                "teacher_source": source,
                "precision": "fp64",
                "teacher_check": "none",
            },
        )
        observation, _ = env.reset(seed=0)
        seen.append([observation])
        for _ in range(3):
            seen[-1].append(env.step(np.ones(3, np.int8))[0])
    np.testing.assert_allclose(seen[0], seen[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling_option", ["keep", "library"])
@pytest.mark.parametrize("name", ["whole", "narrow"])
def test_a_student_cut_from_a_member(
    ready: Path, tiny: dict[str, Any], name: str, pooling_option: str, tmp_path: Path
) -> None:
    """The first block and the embeddings are the member's; pooling and prediction are its own, drawn by seed."""
    student = {"init": "teacher", "num_hidden_layers": 1, "pooling": pooling_option}
    terms = ["hard_label", "soft_label", "hidden_states"]
    problem = kd_env.build_problem(
        env_config(
            **{**tiny, "teacher": str(ready / name), "student": student, "terms": terms, "teacher_check": "none"}
        )
    )
    module, source = problem.student.module, load_file(str(ready / name / "model.safetensors"))
    keeps = pooling_option == "keep"
    assert type(module).__name__ == ("PooledClassifier" if keeps else "BertForSequenceClassification")
    kept = dict(module.base_model.named_parameters())
    assert len([key for key in kept if key.startswith("encoder.layer.")]) == 16
    for key, parameter in kept.items():
        torch.testing.assert_close(parameter, source[key], rtol=0, atol=0)
    if keeps:
        assert problem.student.fresh == {*SHARED, "prediction.bias"}
        assert not any("width_map" in key or "pooler" in key for key in module.state_dict())
    else:
        assert problem.student.fresh == {"classifier.weight", "classifier.bias"}
    start = problem.student.initial(0)
    tokens = pretrained.load_tokenizer(str(ready / name))
    written = pretrained.load_encoder(str(write_student(problem.student, start, tokens, tmp_path / "s")))
    assert isinstance(written, PooledClassifier) == keeps
    batch = problem.selection.gather(np.arange(8))
    with torch.no_grad():
        found = models.Encoder.build(written, train_embeddings=False, fresh="none").forward({}, batch, ()).logits
        torch.testing.assert_close(found, problem.student.forward(start, batch, ()).logits)


def test_students_with_attention_pooling_are_stacked(ready: Path, tiny: dict[str, Any]) -> None:
    """Two replicas learn what each learns alone, and every trained tensor moves."""
    student = {"init": "teacher", "num_hidden_layers": 1}
    options = {**tiny, "teacher": str(ready / "whole"), "student": student, "features": ["gap"], "precision": "fp64"}
    options["gap"] = "divergence"
    problem = kd_env.build_problem(env_config(**options))
    envs = kd_env.DistillVectorEnv(num_envs=2, problem=problem)
    envs.reset(seed=[5, 6])
    together = envs.step(np.ones((2, 3), np.int8))[1]
    for place, seed in enumerate((5, 6)):
        env = kd_env.DistillEnv(problem=problem)
        env.reset(seed=seed)
        begin = {name: value.clone() for name, value in env.run.started().params.items()}
        assert env.step(np.ones(3, np.int8))[1] == pytest.approx(together[place], abs=1e-9)
        assert not [name for name, value in env.run.started().params.items() if torch.equal(value, begin[name])]


def test_the_second_block_alone_and_a_fresh_student(ready: Path, tiny: dict[str, Any]) -> None:
    teacher = pretrained.load_encoder(str(ready / "whole"))
    student = cut_encoder(teacher, (2,), num_labels=2, dropout=0.0)
    torch.testing.assert_close(
        student.bert.encoder.layer[0].attention.self.query.weight,
        teacher.encoder.encoder.layer[1].attention.self.query.weight,
    )
    problem = kd_env.build_problem(env_config(**{**tiny, "teacher": str(ready / "whole")}))
    assert type(problem.student.module).__name__ == "BertForSequenceClassification"
    assert problem.student.facts.hidden_size == 8


def test_a_member_as_a_pretrained_student(ready: Path, tiny: dict[str, Any]) -> None:
    student = {"init": "pretrained", "name_or_path": str(ready / "narrow")}
    problem = kd_env.build_problem(env_config(**{**tiny, "student": student}))
    assert type(problem.student.module).__name__ == "BertForSequenceClassification"
    expected = load_file(str(ready / "narrow" / "model.safetensors"))["embeddings.word_embeddings.weight"]
    assert torch.equal(problem.student.module.get_input_embeddings().weight, expected)


# -- refusals


def test_a_whole_set_is_no_teacher(ready: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds a set of teachers.*/whole'.*/narrow'.*/shallow'"):
        pretrained.load_encoder(str(ready))
    with pytest.raises(ValueError, match=r"holds no set of teachers.*kd_env_set\.json"):
        members(ready / "whole")
    broken = tmp_path / "broken"
    shutil.copytree(ready, broken)
    shutil.rmtree(broken / "narrow")
    with pytest.raises(ValueError, match="lacks its members narrow"):
        members(broken)


@pytest.mark.parametrize("damage", ["garbled", "of another encoder", "of other labels", "missing"])
def test_damaged_shared_layers(ready: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "member"
    shutil.copytree(ready / "narrow", folder)
    (folder / "kd_env_manifest.json").unlink()  # which would tell all of it
    path, message = folder / "pooling.safetensors", "pooling.safetensors is damaged or of another encoder"
    if damage == "garbled":
        path.write_bytes(b"\xff" * 64)
    elif damage == "of another encoder":
        shutil.copy(ready / "whole" / "pooling.safetensors", path)
    elif damage == "of other labels":
        changed = {**pooling(folder), "prediction.weight": torch.zeros(3, 16), "prediction.bias": torch.zeros(3)}
        save_file(changed, str(path))
        message = "predicts 3 labels, config.json names 2"
    else:
        path.unlink()
        message = "that has a classifier head"
    with pytest.raises(ValueError, match=message):
        pretrained.load_encoder(str(folder))


@pytest.fixture(scope="module")
def foreign(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A RoBERTa with a vocabulary of its own, in which a word is two or three tokens."""
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = [*names, "w", *"0123456789"]
    core = Tokenizer(kinds.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    split = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=True)]
    core.pre_tokenizer = pre_tokenizers.Sequence(split)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    special = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), names, strict=True))
    folder = tmp_path_factory.mktemp("foreign") / "roberta"
    write_encoder(folder, "Roberta", tiny, hidden_size=16)
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    return str(folder)


def test_members_of_different_vocabularies_read_their_own_tokens(
    make: Make, start: str, foreign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training the same words in two kinds of tokens; a loaded member says on its own what it said in the set."""
    given = [{"name": "bert", "name_or_path": start}, {"name": "roberta", "name_or_path": foreign}]
    tokenizers = [pretrained.load_tokenizer(folder) for folder in (start, foreign)]
    read: list[list[list[str]]] = []
    found: list[Any] = []
    forward, evaluate = loop._logits, loop.evaluate

    def spy(config: Any, model: Any, batch: Batch) -> torch.Tensor:
        words = tokenizers[type(model.encoder).__name__ == "RobertaModel"].batch_decode(
            batch.input_ids, skip_special_tokens=True
        )
        read.append([text.replace(" ", "").split("w") for text in words])
        return forward(config, model, batch)

    def keep(config: Any, data: Any, trainee: Any) -> Any:
        found[:] = [data, evaluate(config, data, trainee)]
        return found[1]

    monkeypatch.setattr(loop, "_logits", spy)
    monkeypatch.setattr("kd_env.finetuning.co_classifier.evaluate", keep)
    folders = members(cofinetune(make(members=given, epochs=1, evaluations_per_epoch=1)))
    updates = -(-len(found[0].train) // 16)
    assert all(read[2 * place] == read[2 * place + 1] for place in range(updates))
    data, evaluations = found
    assert data.of(0).train is data.train and data.of(1).train.lengths.sum() > data.train.lengths.sum()
    shared = [pooling(folder) for folder in folders]
    assert all(torch.equal(shared[0][name], shared[1][name]) for name in SHARED)
    for place, (path, expected) in enumerate(zip(folders, evaluations, strict=True)):
        assert pretrained.load_tokenizer(str(path)).get_vocab() == tokenizers[place].get_vocab()
        with torch.no_grad():
            batch = data.of(place).selection.gather(np.arange(32))
            logits = encoder_of(path).forward({}, batch, ()).logits
        np.testing.assert_allclose(logits, expected.logits, rtol=1e-4, atol=1e-5)


def test_a_set_of_different_vocabularies_teaches(
    tiny: dict[str, Any], start: str, foreign: str, tmp_path: Path
) -> None:
    """By logits and [CLS], to a student of the first member; what compares token by token is refused."""
    given = [{"name": "bert", "name_or_path": start}, {"name": "roberta", "name_or_path": foreign}]
    config = {**options(tiny, start, tmp_path / "set"), "members": given, "epochs": 1}
    folder = cofinetune(CoTeacherConfig.from_kwargs(**config))
    student = {"init": "teacher", "num_hidden_layers": 1}
    env: dict[str, Any] = {**tiny, "teachers": [str(folder)], "student": student, "decision": "teacher_weighting"}
    env = {
        **{k: v for k, v in env.items() if k not in ("teacher", "features")},
        "terms": ["hard_label", "soft_label", "cls"],
        "teacher_check": "none",
    }
    problem = kd_env.build_problem(env_config(**env, gap="divergence"))
    assert [teacher.foreign for teacher in problem.teachers] == [False, True]
    assert isinstance(problem.student.module, PooledClassifier)
    one = kd_env.DistillEnv(problem=problem)
    one.reset(seed=0)
    assert np.isfinite(one.step(np.zeros(2, np.float32))[1])
    with pytest.raises(ValueError, match=r"'roberta' has another tokenizer.*'hidden_states' compares"):
        kd_env.build_problem(env_config(**{**env, "terms": ["hard_label", "hidden_states"]}, weighs=["hidden_states"]))


def test_a_member_without_a_padding_token(make: Make, start: str, foreign: str, tmp_path: Path) -> None:
    """Refused before any training, with the member's folder."""
    other = tmp_path / "other"
    shutil.copytree(foreign, other)
    path = other / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("pad_token")
    path.write_text(json.dumps(settings))
    given = [{"name": "a", "name_or_path": start}, {"name": "b", "name_or_path": str(other)}]
    with pytest.raises(ValueError, match=r"other' has no padding token"):
        cofinetune(make(members=given))
    assert not (tmp_path / "set").exists() and not (tmp_path / "set.partial").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"members": None}, ["needs members"]),
        ({"members": []}, ["members is empty"]),
        ({"members": "a"}, ["members='a'", "list of mappings"]),
        ({"members": [{"name": "a"}]}, ["needs name_or_path"]),
        ({"members": [{"nme": "a", "name_or_path": "x"}]}, ["members[0]", "'nme'", "Did you mean 'name'"]),
        ({"members": [{"name": "a/b", "name_or_path": "x"}]}, ["members[0].name='a/b'"]),
        ({"members": [{"name": "a", "name_or_path": "x"}] * 2}, ["Two members", "'a'"]),
        ({"members": [{"name": "a", "name_or_path": "x", "seed": -1}]}, ["members[0].seed=-1"]),
        ({"members": [{"name": "a", "name_or_path": "x", "init": "new"}]}, ["members[0].init", "'new'", "fresh"]),
        ({"members": [{"name": "a", "name_or_path": "x", "hidden_size": 8}]}, ["members[0].hidden_size=8"]),
        ({"shared_width": 0}, ["shared_width=0"]),
        ({"epochs": 0}, ["epochs=0"]),
        ({"learning_rte": 1}, ["learning_rte", "Did you mean 'learning_rate'"]),
    ],
)
def test_bad_options(make: Make, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        make(**changes)
    assert all(word in str(error.value) for word in words), error.value
