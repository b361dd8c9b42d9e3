"""Fine-tuning of teachers: train rows alone, exact resume, the record, and what is refused before any work."""

from __future__ import annotations

import csv
import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from kd_env.data import splits
from kd_env.data.label_noise import rows_with_words
from kd_env.data.loading import get_task, load_train
from kd_env.data.tasks import Rows
from kd_env.finetuning import classifier as module
from kd_env.finetuning import loop
from kd_env.finetuning.classifier import TeacherConfig, finetune, teacher_record
from kd_env.finetuning.loop import epoch_batches

WORDS = [f"w{index}" for index in range(60)]
COLUMNS = {"text": "sentence", "label": "label", "kind": "classification", "labels": ["bad", "good"]}
SCORES = {"text": ["a", "b"], "label": "score", "kind": "regression", "label_range": [0.0, 5.0]}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pre-trained encoder of 2 tiny blocks in half precision, with dropout and a masked-language-model head."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    core = Tokenizer(
        models.WordLevel({t: i for i, t in enumerate([*specials, "good", "bad", *WORDS])}, unk_token="[UNK]")
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(folder)
    config = BertConfig(
        vocab_size=100,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForMaskedLM(config).half().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """240 sentences of random words whose one word ``good`` or ``bad`` is the label; pairs with scores beside them."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("data")
    (root / "classes").mkdir()
    (root / "scores").mkdir()
    with open(root / "classes" / "train.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence", "label"])
        for _ in range(240):
            words = rng.choice(WORDS, size=rng.integers(3, 12)).tolist()
            label = ["bad", "good"][rng.integers(2)]
            words.insert(rng.integers(len(words)), label)
            writer.writerow([" ".join(words), label])
    with open(root / "scores" / "train.jsonl", "w") as file:
        for _ in range(120):
            a, b = (" ".join(rng.choice(WORDS, size=5).tolist()) for _ in range(2))
            file.write(json.dumps({"a": a, "b": b, "score": float(rng.uniform(0, 5))}) + "\n")
    return str(root)


Make = Callable[..., TeacherConfig]


@pytest.fixture
def make(encoder: str, data_dir: str, tmp_path: Path) -> Make:
    def config(**options: Any) -> TeacherConfig:
        defaults: dict[str, Any] = {
            "task": "custom",
            "name_or_path": encoder,
            "output": str(tmp_path / "teacher"),
            "data_dir": f"{data_dir}/classes",
            "columns": COLUMNS,
            "epochs": 2,
            "batch_size": 16,
            "learning_rate": 1e-2,
            "evaluations_per_epoch": 2,
            "show_progress": False,
            "device": "cpu",
        }
        return TeacherConfig.from_kwargs(**{**defaults, **options})

    return config


class Interrupted(Exception):
    pass


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(str(folder / "model.safetensors"))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- what comes out


def test_a_teacher_learns_and_says_how_it_was_made(make: Make, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    config = make(epochs=6)
    seen: list[dict[str, Any]] = []
    before = torch.random.get_rng_state()
    folder = finetune(config, on_evaluation=seen.append)
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator must stay as it was"
    record = teacher_record(folder)
    assert record is not None and record["selection"]["accuracy"] >= 0.95
    assert (record["task"], record["labels"], record["trained_on"]) == ("custom", ["bad", "good"], "train")
    task = get_task("custom", COLUMNS, config.data_dir)
    rows = load_train(task, config.data_dir)
    cut = splits.cut(rows, seed=0)
    assert record["fingerprint"] == cut.fingerprint
    assert record["train_rows"] == len(cut.train) and record["selection_rows"] == len(cut.selection) == 24
    assert 0.05 <= record["temperature"] <= 20.0
    assert len(seen) == 12 and record["history"] == seen
    best = min(seen, key=lambda entry: (entry["loss"], -entry["accuracy"]))
    assert record["best_step"] == best["step"]
    assert record["selection"] == pytest.approx({key: best[key] for key in ("loss", "accuracy")})
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"], "no checkpoint is left"

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert model.config.id2label == {0: "bad", 1: "good"} and model.dtype == torch.float32
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = [model(**tokenizer([rows.first[row]], return_tensors="pt")).logits[0] for row in cut.selection]
    accuracy = np.mean([int(z.argmax()) == rows.labels[row] for z, row in zip(logits, cut.selection, strict=True)])
    assert accuracy == pytest.approx(record["selection"]["accuracy"])


def test_training_sees_every_train_row_once_an_epoch_and_no_other(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    update = loop._update

    def spy(config: Any, data: Any, model: Any, optimizer: Any, rows: np.ndarray, *rest: Any) -> float:
        seen.extend(data.cut.train[rows].tolist())
        texts = load_train(data.task, config.data_dir).first
        batch = data.train.gather(rows)
        words = [len(texts[row].split()) + 2 for row in data.cut.train[rows]]
        assert batch.attention_mask.sum(-1).tolist() == words
        return update(config, data, model, optimizer, rows, *rest)

    monkeypatch.setattr(loop, "_update", spy)
    config = make()
    finetune(config)
    rows = load_train(get_task("custom", COLUMNS, config.data_dir), config.data_dir)
    cut = splits.cut(rows, seed=0)
    half = len(seen) // 2
    assert sorted(seen[:half]) == sorted(seen[half:]) == cut.train.tolist()
    assert seen[:half] != seen[half:]


def test_label_noise_hurts_train_labels_alone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    monkeypatch.setattr(
        module, "train", lambda config, data, *rest: found.append(data) or (_ for _ in ()).throw(Interrupted)
    )
    for noise in (0.0, 0.25):
        with pytest.raises(Interrupted):
            finetune(make(label_noise=noise, resume=False))
    clean, noisy = found
    changed = clean.train.labels != noisy.train.labels
    assert changed.sum() == round(0.25 * len(changed))
    assert np.array_equal(clean.selection.labels, noisy.selection.labels)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_noisy_words_choose_the_rows_with_wrong_labels(
    make: Make, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    found: list[Any] = []
    monkeypatch.setattr(
        module, "train", lambda config, data, *rest: found.append(data) or (_ for _ in ()).throw(Interrupted)
    )
    config = make(label_noise=share, noisy_words=["w1", "W2"])
    with pytest.raises(Interrupted):
        finetune(config)
    texts = load_train(found[0].task, config.data_dir)
    cut = found[0].cut
    right = texts.labels[cut.train]
    named = np.array([bool({"w1", "w2"} & set(texts.first[row].split())) for row in cut.train])
    wrong = found[0].train.labels != right
    assert 0 < named.sum() < len(named) / 2, "w10 and its like must not count as w1"
    assert wrong.sum() == round(share * named.sum()) and not (wrong & ~named).any()
    assert np.array_equal(found[0].selection.labels, texts.labels[cut.selection])


def test_rows_with_words_in_either_text() -> None:
    rows = Rows(["Not here.", "knot", "never-mind", "c d"], ["a", "b", "c", "it was NOT"], np.zeros(4, np.int64))
    assert rows_with_words(rows, np.array([0, 1, 2, 3]), ["not"]).tolist() == [0, 3]
    assert rows_with_words(rows, np.array([1, 2, 3]), ["NOT", "never"]).tolist() == [2, 3]
    assert rows_with_words(rows, np.array([1, 2, 3]), ["!not"]).tolist() == [1, 2]
    assert rows_with_words(rows, np.arange(4), ["!not", "!KNOT"]).tolist() == [2]
    with pytest.raises(ValueError, match="either all words begin with '!'"):
        rows_with_words(rows, np.arange(4), ["not", "!knot"])
    with pytest.raises(ValueError, match=r"noisy_words=\['x\.'\]: none of the 4 train rows"):
        rows_with_words(rows, np.arange(4), ["x."])


def test_a_fresh_teacher_has_the_sizes_asked_for_and_no_past(make: Make, tmp_path: Path) -> None:
    """Its source was fine-tuned on nobody knows what; nothing of it is left but sizes, dropout and vocabulary."""
    source = finetune(make(epochs=1, output=str(tmp_path / "source")))
    (source / "kd_env_teacher.json").unlink()
    sizes = {"num_hidden_layers": 3, "hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 20}
    folder = finetune(make(name_or_path=str(source), init="fresh", seed=5, **sizes, learning_rate=1e-9))
    settings = json.loads((folder / "config.json").read_text())
    assert {name: settings[name] for name in sizes} == sizes
    assert settings["hidden_dropout_prob"] == 0.1 and settings["id2label"] == {"0": "bad", "1": "good"}
    record = teacher_record(folder)
    assert record is not None and record["source"] is None and record["trained_on"] == "train"
    assert record["config"]["init"] == "fresh" and record["config"]["hidden_size"] == 12
    tensors = weights(folder)  # hardly trained: as they were drawn
    drawn = tensors["bert.encoder.layer.2.intermediate.dense.weight"]
    assert drawn.shape == (20, 12) and float(drawn.std()) == pytest.approx(0.2, rel=0.2)  # initializer_range
    assert float(tensors["bert.embeddings.word_embeddings.weight"][0].abs().max()) == 0.0, "padding"
    again = finetune(make(name_or_path=str(source), init="fresh", output=str(tmp_path / "other"), epochs=1))
    kept = json.loads((again / "config.json").read_text())
    assert {name: kept[name] for name in sizes} == {**dict(zip(sizes, (2, 16, 2, 32), strict=True))}
    name = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(weights(again)[name], weights(source)[name])


def test_a_fresh_teacher_learns_in_any_precision(make: Make, tmp_path: Path) -> None:
    options = {"init": "fresh", "hidden_size": 32, "intermediate_size": 64, "epochs": 6, "learning_rate": 0.02}
    for precision in ("fp32", "bf16"):
        record = teacher_record(finetune(make(**options, precision=precision, output=str(tmp_path / precision))))
        assert record is not None and record["selection"]["accuracy"] >= 0.9


def test_later_options_do_not_change_the_identity_of_earlier_teachers(make: Make) -> None:
    later = {"init", "noisy_words", "keep", "hidden_size", "num_attention_heads", "intermediate_size"}
    assert not later & set(make().identity())
    changed = make(init="fresh", hidden_size=8, label_noise=0.5, noisy_words=("w1",)).identity()
    assert (changed["init"], changed["hidden_size"], changed["noisy_words"]) == ("fresh", 8, ("w1",))


def test_regression_and_the_first_layer_alone(make: Make, data_dir: str) -> None:
    folder = finetune(make(columns=SCORES, data_dir=f"{data_dir}/scores", num_hidden_layers=1, epochs=1))
    record = teacher_record(folder)
    assert record is not None and set(record["selection"]) == {"loss", "pearson", "spearmanr"}
    assert record["temperature"] is None and record["labels"] == []
    settings = json.loads((folder / "config.json").read_text())
    assert settings["num_hidden_layers"] == 1 and len(settings["id2label"]) == 1
    assert not any("layer.1." in name for name in weights(folder))


@pytest.mark.parametrize(
    ("names", "kept"), [(["bad", "good"], True), (["good", "bad"], False), (["x", "y", "z"], False)]
)
def test_a_head_is_kept_only_for_the_same_labels(make: Make, tmp_path: Path, names: list[str], kept: bool) -> None:
    from kd_env.models.loading import load_classifier

    first = make()
    task = get_task("custom", {**COLUMNS, "labels": names}, first.data_dir)
    source, had_head = load_classifier(first.name_or_path, task, None, seed=3)
    assert not had_head
    source.save_pretrained(tmp_path / "source")
    again, had_head = load_classifier(
        str(tmp_path / "source"), get_task("custom", COLUMNS, first.data_dir), None, seed=4
    )
    assert had_head, "dropped or kept, it shows that the source was fine-tuned before"
    assert again.classifier.weight.shape == (2, 16)
    assert kept == (
        source.classifier.weight.shape == (2, 16) and torch.equal(source.classifier.weight, again.classifier.weight)
    )
    assert torch.equal(source.bert.pooler.dense.weight, again.bert.pooler.dense.weight)


def test_the_record_says_what_the_encoder_had_seen_before(make: Make, tmp_path: Path) -> None:
    """Not fine-tuned; fine-tuned here, twice; fine-tuned elsewhere."""
    first = finetune(make(epochs=1))
    second = finetune(make(epochs=1, name_or_path=str(first), output=str(tmp_path / "second")))
    (first / "kd_env_teacher.json").unlink()
    foreign = finetune(make(epochs=1, name_or_path=str(first), output=str(tmp_path / "foreign")))
    last = finetune(make(epochs=1, name_or_path=str(foreign), output=str(tmp_path / "last")))
    records = [teacher_record(folder) or {} for folder in (second, foreign, last)]
    own = {"task": "custom", "trained_on": "train", "fingerprint": records[0]["fingerprint"]}
    assert records[0]["source"] == {**own, "source": None}
    assert records[1]["source"] == {"trained_on": "unknown"}
    assert records[2]["source"] == {**own, "source": {"trained_on": "unknown"}}


def test_the_checkpoint_with_the_lowest_selection_loss_is_kept(make: Make) -> None:
    record = teacher_record(finetune(make(label_noise=0.4, epochs=8, evaluations_per_epoch=1)))
    assert record is not None
    history = {entry["step"]: entry["loss"] for entry in record["history"]}
    assert record["best_step"] == min(history, key=lambda step: history[step])
    assert record["best_step"] < max(history), "noisy labels must be overfitted for this test to mean anything"
    assert record["selection"]["loss"] == pytest.approx(history[record["best_step"]])


def test_the_last_checkpoint_can_be_kept_instead(make: Make, tmp_path: Path) -> None:
    """For teachers that are to learn from wrong labels, which the clean selection split would choose against."""
    options = {"label_noise": 1.0, "noisy_words": ("bad",), "epochs": 6}
    folders = [finetune(make(**options, keep=keep, output=str(tmp_path / keep))) for keep in ("best", "last")]
    best, last = ((teacher_record(folder) or {}) for folder in folders)
    assert best["history"] == last["history"]
    assert last["best_step"] == last["history"][-1]["step"] > best["best_step"]
    assert last["selection"]["loss"] == pytest.approx(last["history"][-1]["loss"])
    assert not same(*map(weights, folders))


def test_checkpoints_on_the_way_are_those_of_one_training(make: Make, tmp_path: Path) -> None:
    """A teacher of epoch n is, bit for bit, what the whole training was after epoch n; the last one is its end."""
    epochs = {n: finetune(make(epochs=3, keep=n, output=str(tmp_path / f"epoch{n}"))) for n in (1, 2, 3)}
    whole = finetune(make(epochs=3, keep="last", output=str(tmp_path / "whole")))
    history = (teacher_record(whole) or {})["history"]
    for n, folder in epochs.items():
        record = teacher_record(folder) or {}
        way = [entry for entry in history if entry["epoch"] <= n]
        assert record["history"] == way and record["best_step"] == way[-1]["step"]
        assert record["config"]["keep"] == n and record["trained_on"] == "train"
        assert record["selection"]["loss"] == pytest.approx(way[-1]["loss"])
    assert same(weights(epochs[3]), weights(whole))
    assert not same(weights(epochs[2]), weights(whole))
    short = finetune(make(epochs=2, keep="last", output=str(tmp_path / "short")))
    assert not same(weights(short), weights(epochs[2])), "its learning rate fell to 0"


def test_bfloat16_trains_float32_weights(make: Make) -> None:
    folder = finetune(make(precision="bf16", epochs=1))
    assert {tensor.dtype for tensor in weights(folder).values()} == {torch.float32}
    assert not same(weights(folder), weights(finetune(make(epochs=1, output=f"{folder}-fp32"))))


def test_seeds_decide_head_and_order(make: Make, tmp_path: Path) -> None:
    folders = [
        finetune(make(seed=seed, epochs=1, output=str(tmp_path / name)))
        for name, seed in zip("abc", (0, 0, 1), strict=True)
    ]
    a, b, c = map(weights, folders)
    assert same(a, b) and not same(a, c)


# -- resume


@pytest.mark.parametrize("at", [1, 3])
def test_an_interrupted_run_ends_in_the_same_weights(make: Make, tmp_path: Path, at: int) -> None:
    whole = finetune(make(output=str(tmp_path / "whole")))
    config = make()
    seen: list[int] = []

    def stop(entry: dict[str, Any]) -> None:
        seen.append(entry["step"])
        if len(seen) == at:
            raise Interrupted

    with pytest.raises(Interrupted):
        finetune(config, on_evaluation=stop)
    assert not Path(config.output).exists()
    resumed = finetune(config, on_evaluation=stop)
    steps = [entry["step"] for entry in (teacher_record(whole) or {})["history"]]
    assert seen == steps, "the resumed run must not repeat what was done"
    assert same(weights(whole), weights(resumed))
    records = [teacher_record(folder) for folder in (whole, resumed)]
    assert records[0] == records[1]


def test_a_crash_between_two_checkpoints_continues_from_the_last(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finetune(make(output=str(tmp_path / "whole")))
    update = loop._update
    with monkeypatch.context() as patch:

        def crash(config: Any, data: Any, model: Any, optimizer: Any, rows: Any, step: int, rate: float) -> float:
            if step == 9:  # evaluations stand after updates 6, 12, 18, 24
                raise Interrupted
            return update(config, data, model, optimizer, rows, step, rate)

        patch.setattr(loop, "_update", crash)
        with pytest.raises(Interrupted):
            finetune(make())
    assert same(weights(whole), weights(finetune(make())))


def test_another_configuration_does_not_continue_a_checkpoint(make: Make) -> None:
    def stop(entry: dict[str, Any]) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        finetune(make(), on_evaluation=stop)
    with pytest.raises(ValueError, match=r"learning_rate \(0.01 there, 0.005 here\).*resume=false"):
        finetune(make(learning_rate=5e-3))
    finetune(make(learning_rate=5e-3, epochs=1, resume=False))


def test_a_finished_teacher_is_returned_and_never_overwritten(make: Make) -> None:
    config = make(epochs=1)
    folder = finetune(config)
    stamp = (folder / "model.safetensors").stat().st_mtime_ns

    def never(entry: dict[str, Any]) -> None:
        raise AssertionError("nothing is to be trained")

    assert finetune(config, on_evaluation=never) == folder
    assert finetune(dataclasses.replace(config, show_progress=True, resume=False), on_evaluation=never) == folder
    with pytest.raises(ValueError, match=r"seed \(0 there, 1 here\); choose another output or delete it"):
        finetune(make(epochs=1, seed=1))
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_second_process_waits_and_takes_the_first_ones_teacher(make: Make, tmp_path: Path) -> None:
    """One trains; the other neither trains beside it nor touches its checkpoints."""
    config = make(epochs=1, evaluations_per_epoch=1)
    second: list[Any] = []
    evaluations: list[str] = []

    def other() -> None:
        second.append(finetune(config, on_evaluation=lambda entry: evaluations.append("second")))

    thread = threading.Thread(target=other)

    def during(entry: dict[str, Any]) -> None:
        evaluations.append("first")
        if not thread.is_alive():
            thread.start()
            thread.join(3)  # more than it takes to train one
            assert thread.is_alive(), "it did not wait"

    assert finetune(config, on_evaluation=during) == Path(config.output)
    thread.join(30)
    assert second == [Path(config.output)] and evaluations == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_a_folder_of_something_else_is_not_touched(make: Make, tmp_path: Path) -> None:
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="no teacher made here"):
        finetune(make())
    assert (tmp_path / "teacher" / "notes.txt").read_text() == "mine"
    assert teacher_record(tmp_path / "teacher") is None


# -- batches


def test_epoch_batches_hold_every_row_once_and_pad_little() -> None:
    lengths = np.random.default_rng(0).integers(4, 60, size=1003)
    batches = epoch_batches(lengths, 16, np.random.default_rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(1003))
    assert sorted(len(batch) for batch in batches) == [11, *[16] * 62]
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    assert padded < 1.1 * lengths.sum()
    again = epoch_batches(lengths, 16, np.random.default_rng(1))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    sizes = [int(lengths[batch].max()) for batch in batches]
    assert sizes != sorted(sizes), "short batches must not come first"


# -- refusals before any work


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rte": 1}, ["learning_rte", "Did you mean 'learning_rate'"]),
        ({"output": None}, ["needs output", "output=..."]),
        ({"task": ""}, ["task=''"]),
        ({"data_dir": 5}, ["data_dir=5", "a text"]),
        ({"columns": [5]}, ["columns=(5,)", "a mapping"]),
        ({"epochs": 0}, ["epochs=0", "at least 1"]),
        ({"batch_size": 0}, ["batch_size=0"]),
        ({"learning_rate": float("inf")}, ["learning_rate=inf"]),
        ({"warmup": 1.5}, ["warmup=1.5", "[0, 1.0]"]),
        ({"label_noise": -0.1}, ["label_noise=-0.1"]),
        ({"precision": "fp16"}, ["fp16", "bf16"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers=0"]),
        ({"keep": "first"}, ["first", "best, last", "number of an epoch"]),
        ({"keep": 0}, ["keep", "best, last"]),
        ({"keep": 4, "epochs": 3}, ["keep=4", "epochs=3"]),
        ({"label_noise": "much"}, ["label_noise='much'"]),
        ({"init": "frsh"}, ["frsh", "Did you mean 'fresh'"]),
        ({"hidden_size": 8}, ["hidden_size=8", "init=fresh"]),
        ({"init": "fresh", "intermediate_size": 0}, ["intermediate_size=0"]),
        ({"label_noise": 0.5, "noisy_words": "not"}, ["noisy_words='not'", "['not']"]),
        ({"label_noise": 0.5, "noisy_words": []}, ["noisy_words is empty"]),
        ({"label_noise": 0.5, "noisy_words": ["not so"]}, ["'not so'", "without spaces"]),
        ({"noisy_words": ["not"]}, ["label_noise=0"]),
    ],
)
def test_bad_options(make: Make, options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        make(**options)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "mrcp", "columns": None}, ["mrcp", "Did you mean 'mrpc'"]),
        ({"name_or_path": "./nowhere"}, ["./nowhere", "no folder"]),
        ({"name_or_path": "someone/some-encoder"}, ["someone/some-encoder", "local folder"]),  # the hub is out of reach
        ({"device": "cuda:77"}, ["cuda:77", "device=cpu"]),
        ({"num_hidden_layers": 3}, ["num_hidden_layers=3", "1 to 2"]),
        ({"feedback_rows": 500}, ["feedback_rows=500"]),
        ({"label_noise": 0.5, "noisy_words": ["absent"]}, ["absent", "none of the"]),
        ({"init": "fresh", "hidden_size": 15}, ["hidden_size=15", "num_attention_heads=2"]),
    ],
)
def test_what_is_absent(make: Make, tmp_path: Path, options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        finetune(make(**options))
    assert all(word in str(error.value) for word in words), error.value
    assert not any(tmp_path.iterdir()), "nothing is written before the checks"


def test_folders_that_are_no_model(make: Make, encoder: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"no config\.json"):
        finetune(make(name_or_path=str(empty)))
    for name, change, message in (
        ("no_weights", lambda path: path.unlink(), "could not be loaded"),
        ("damaged", lambda path: path.write_bytes(b"not safetensors"), "could not be loaded"),
        (
            "foreign",
            lambda path: save_file({"other.weight": torch.zeros(2)}, str(path), {"format": "pt"}),
            "do not fit",
        ),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for path in Path(encoder).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        change(folder / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            finetune(make(name_or_path=str(folder)))


def test_rows_longer_than_the_positions(make: Make, encoder: str, tmp_path: Path) -> None:
    folder = tmp_path / "short"
    folder.mkdir()
    for path in Path(encoder).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    settings = json.loads((folder / "config.json").read_text())
    tensors = load_file(str(folder / "model.safetensors"))
    name = "bert.embeddings.position_embeddings.weight"
    save_file({**tensors, name: tensors[name][:8].clone()}, str(folder / "model.safetensors"), {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 8}))
    with pytest.raises(ValueError, match="only 8 positions"):
        finetune(make(name_or_path=str(folder)))
    finetune(make(name_or_path=str(folder), max_length=8, epochs=1))


def test_a_loss_that_is_not_finite_names_step_and_rows(make: Make) -> None:
    with pytest.raises(FloatingPointError, match=r"update \d+ \(rows \[\d+, .*lower learning_rate"):
        finetune(make(learning_rate=1e30, epochs=8))
