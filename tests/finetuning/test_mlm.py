"""Masked language models: the head at chosen vectors, training, exact resume, and the command that makes one."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cli.main import main
from kd_env.core.records import read_record
from kd_env.core.types import Batch, Signal
from kd_env.data.corpora import load_texts
from kd_env.data.text import cut_texts, token_facts
from kd_env.finetuning import masked_lm as module
from kd_env.finetuning.masked_lm import MlmConfig, evaluate, mask, masked_logits, prepare, train_mlm
from kd_env.models import pretrained
from kd_env.models.masked_lm import MaskedLM, head_parameters, load_masked_lm, start_masked_lm
from kd_env.testing import WORDS, tiny_task

SPECIALS = 5  # of the tiny tokenizer: its ids are 0 to 4
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}


def new_masked_lm(name_or_path: str, **options: Any) -> MaskedLM:
    return start_masked_lm(name_or_path, **options).model


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT of two tiny blocks in half precision, with dropout and without a head."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    pretrained.load_tokenizer(str(tiny_task(folder / "task")["teacher"])).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=50, initializer_range=0.2, **SIZES)).half().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Lines of two words each, in any order, so that a line tells what is masked in it."""
    folder, rng = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
    pairs = [rng.choice(WORDS, size=2, replace=False) for _ in range(500)]
    (folder / "lines.txt").write_text("\n".join(" ".join(rng.choice(pair, size=rng.integers(5, 15))) for pair in pairs))
    return str(folder)


Make = Callable[..., MlmConfig]


@pytest.fixture
def make(encoder: str, text: str, tmp_path: Path) -> Make:
    def config(**options: Any) -> MlmConfig:
        defaults: dict[str, Any] = {
            "text": text,
            "name_or_path": encoder,
            "output": str(tmp_path / "teacher"),
            "feedback_rows": 16,
            "selection_rows": 32,
            "max_train_rows": 96,
            "epochs": 2,
            "batch_size": 16,
            "learning_rate": 1e-2,
            "evaluations_per_epoch": 2,
            "show_progress": False,
            "device": "cpu",
        }
        return MlmConfig.from_kwargs(**{**defaults, **options})

    return config


class Interrupted(Exception):
    pass


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(str(folder / "model.safetensors"))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def record_of(folder: str | Path) -> dict[str, Any]:
    record = read_record(folder)
    assert record is not None
    return record


def some_batch(vocabulary: int, rows: int = 3, length: int = 10) -> Batch:
    ids = torch.randint(SPECIALS, vocabulary, (rows, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(rows, length, dtype=torch.bool)
    mask[1, 6:] = False
    return Batch(ids, mask, torch.zeros_like(ids), torch.zeros(rows))


# -- the model in two parts


def tiny_config(family: str) -> Any:
    import transformers

    special = {"pad_token_id": 1} if family in ("Roberta", "MPNet") else {}
    other = {"embedding_size": 8} if family in ("Electra", "Albert") else {}
    names = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
    distil = {**names, "intermediate_size": "hidden_dim"} if family == "DistilBert" else {}
    sizes = {distil.get(name, name): value for name, value in SIZES.items()}
    return getattr(transformers, f"{family}Config")(vocab_size=60, initializer_range=0.3, **sizes, **other, **special)


@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert", "Electra", "Albert", "MPNet"])
def test_every_family_against_the_librarys_own_forward_pass(family: str, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoModelForMaskedLM

    with torch.random.fork_rng(devices=[]):
        AutoModel.from_config(tiny_config(family)).save_pretrained(tmp_path / "bare")
    bare = str(tmp_path / "bare")
    with pytest.raises(ValueError, match=rf"`kd-env teacher objective=mlm text=<text> teacher.name_or_path={bare}`"):
        load_masked_lm(bare)
    first, again, other = (new_masked_lm(bare, seed=seed) for seed in (0, 0, 1))
    heads = [torch.cat([p.detach().flatten() for p in head_parameters(lm).values()]) for lm in (first, again, other)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    first.module.save_pretrained(tmp_path / "whole")
    stored = load_file(str(tmp_path / "whole" / "model.safetensors"))
    assert sum(tensor.shape[0] == 60 and tensor.ndim == 2 for tensor in stored.values()) == 1, "the table stands once"
    kept = head_parameters(new_masked_lm(str(tmp_path / "whole"), seed=1))
    assert all(torch.equal(kept[name], value) for name, value in head_parameters(first).items()), "a head is kept"
    found = load_masked_lm(str(tmp_path / "whole"))
    assert found.module.get_output_embeddings().weight is found.module.get_input_embeddings().weight
    assert found.module.dtype == torch.float32 and not found.module.training

    reference = AutoModelForMaskedLM.from_pretrained(tmp_path / "whole").eval()
    batch = some_batch(60)
    with torch.no_grad():
        own = reference(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), output_hidden_states=True
        )
        encoded = found.encode(batch, {Signal("hidden_states", 1), Signal("cls", 2)})
        logits = found.logits(encoded.hidden)
        tokens = torch.arange(30).reshape(3, 10)
        alone = found.token_logits(found.features(encoded.hidden), tokens)
    seen = batch.attention_mask
    assert torch.allclose(logits[seen], own.logits[seen], atol=1e-5)
    assert torch.equal(found.logits(encoded.hidden[0, 3]), logits[0, 3]) or torch.allclose(
        found.logits(encoded.hidden[0, 3]), logits[0, 3], atol=1e-6
    )
    assert torch.allclose(alone, logits.gather(-1, tokens[..., None])[..., 0], atol=1e-5)
    assert torch.allclose(encoded.signals.hidden_states[1][seen], own.hidden_states[1][seen], atol=1e-5)
    assert torch.allclose(encoded.signals.cls[2], own.hidden_states[2][:, 0], atol=1e-5)
    assert encoded.signals.logits.numel() == 0
    padded = batch._replace(input_ids=batch.input_ids.masked_fill(~seen, 7))
    assert torch.equal(found.encode(padded).hidden[seen], encoded.hidden[seen]), "padding must not be attended"


def test_attention_signals_and_those_that_there_are_not(encoder: str) -> None:
    model, batch = new_masked_lm(encoder, seed=0), some_batch(45)
    for eager in (False, True):
        signals = model.encode(batch, {Signal("attention_scores", 2), Signal("values", 1)}, eager=eager).signals
        assert signals.attention_scores[2].shape == (3, 2, 10, 10) and signals.values[1].shape == (3, 2, 10, 8)
    with pytest.raises(ValueError, match="no logits of whole rows"):
        model.encode(batch, {Signal("logits")})
    with pytest.raises(ValueError, match="does not give the signal"):
        model.encode(batch, {Signal("attention_scores", 3)})


def test_encoders_that_cannot_be_masked_language_models(encoder: str, tmp_path: Path) -> None:
    from transformers import DebertaV2Config, GPT2Config

    for config, reason in ((DebertaV2Config(), "not known to work on single vectors"), (GPT2Config(), "has no masked")):
        config.save_pretrained(tmp_path / "other")
        with pytest.raises(ValueError, match=f"{config.model_type}.*{reason}.*albert, bert"):
            new_masked_lm(str(tmp_path / "other"), seed=0)
    with pytest.raises(ValueError, match="num_hidden_layers=3 is out of range"):
        new_masked_lm(encoder, num_hidden_layers=3, seed=0)
    with pytest.raises(ValueError, match="no folder"):
        load_masked_lm(str(tmp_path / "absent"))
    assert new_masked_lm(encoder, num_hidden_layers=1, seed=0).facts.num_layers == 1


# -- masking and the loss


def test_special_tokens_are_never_masked_and_masking_is_80_10_10(make: Make, encoder: str) -> None:
    config = make()
    tokenizer = pretrained.load_tokenizer(encoder)
    data = prepare(config, tokenizer, torch.device("cpu"))
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(("slots", "masked", "kept", "ordinary"), 0)
    for _ in range(60):
        batch = data.train.gather(np.arange(64))
        found = mask(batch, data.facts, 0.15, rng, torch.device("cpu"))
        changed = found.batch.input_ids != batch.input_ids
        slot = torch.zeros_like(changed)
        slot[found.rows, found.places] = True
        assert not (changed & ~slot).any() and (batch.input_ids[slot] >= SPECIALS).all()
        assert batch.attention_mask[slot].all()
        assert torch.equal(found.targets, batch.input_ids[found.rows, found.places])
        now = found.batch.input_ids[found.rows, found.places]
        assert ((now >= SPECIALS) | (now == data.facts.mask_id)).all()
        counts["slots"] += len(now)
        counts["masked"] += int((now == data.facts.mask_id).sum())
        counts["kept"] += int((now == found.targets).sum())
        counts["ordinary"] += int((batch.attention_mask & (batch.input_ids >= SPECIALS)).sum())
    slots = counts["slots"]
    assert slots / counts["ordinary"] == pytest.approx(0.15, abs=0.01)
    assert counts["masked"] / slots == pytest.approx(0.8, abs=5 * math.sqrt(0.16 / slots))
    assert counts["kept"] / slots == pytest.approx(0.1 + 0.1 / 40, abs=5 * math.sqrt(0.09 / slots))


def test_where_chance_masks_nothing_every_row_has_one_slot(make: Make, encoder: str) -> None:
    data = prepare(make(), pretrained.load_tokenizer(encoder), torch.device("cpu"))
    batch = data.train.gather(np.arange(8))
    found = mask(batch, data.facts, 1e-9, np.random.default_rng(0), torch.device("cpu"))
    assert found.rows.tolist() == list(range(8)) and (found.targets >= SPECIALS).all()


def test_loss_and_gradients_are_those_of_the_full_computation(make: Make, encoder: str) -> None:
    """The library's forward pass over the whole vocabulary at every position, with -100 where nothing is masked."""
    from transformers import AutoModelForMaskedLM

    config = make(mask_rate=0.3)
    device = torch.device("cpu")
    data = prepare(config, pretrained.load_tokenizer(encoder), device)
    model = new_masked_lm(encoder, seed=0)
    model.module.save_pretrained(config.output)
    reference = AutoModelForMaskedLM.from_pretrained(config.output).eval()
    masked = mask(data.train.gather(np.arange(24)), data.facts, 0.3, np.random.default_rng(0), device)
    loss = torch.nn.functional.cross_entropy(masked_logits(model, masked), masked.targets)
    loss.backward()
    labels = torch.full_like(masked.batch.input_ids, -100)
    labels[masked.rows, masked.places] = masked.targets
    inputs = {"input_ids": masked.batch.input_ids, "attention_mask": masked.batch.attention_mask.long()}
    expected = reference(**inputs, labels=labels).loss
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    names = dict(reference.named_parameters())
    for name, parameter in model.module.named_parameters():
        assert parameter.grad is not None and torch.allclose(parameter.grad, names[name].grad, atol=1e-5), name


class Largest(TorchDispatchMode):
    """Watches every tensor that is made; ``rows`` is the most rows of vocabulary width that one of them has."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.numel, self.rows = vocabulary, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
                if tensor.ndim and tensor.shape[-1] == self.vocabulary:
                    self.rows = max(self.rows, tensor.numel() // self.vocabulary)
        return out


def test_no_tensor_of_rows_times_length_times_vocabulary(make: Make, encoder: str, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    vocabulary, wide = 5000, tmp_path / "wide"
    BertModel(BertConfig(vocab_size=vocabulary, **SIZES)).save_pretrained(wide)
    pretrained.load_tokenizer(encoder).save_pretrained(wide)
    config = make(name_or_path=str(wide))
    device = torch.device("cpu")
    data = prepare(config, pretrained.load_tokenizer(str(wide)), device)
    model = new_masked_lm(str(wide), seed=0)
    masked = mask(data.train.gather(np.arange(64)), data.facts, 0.15, np.random.default_rng(0), device)
    everything = masked.batch.input_ids.numel() * vocabulary
    slots = len(masked.targets)
    assert slots * vocabulary < everything / 4
    optimizer = module._optimizer(config, model)
    with Largest(vocabulary) as seen:
        module._update(config, model, optimizer, masked, 1, 1e-3)
        evaluate(config, data, model)
    most = max(slots, *(len(chunk.targets) for chunk in data.chunks))
    assert seen.rows == most and seen.numel == most * vocabulary
    with Largest(vocabulary) as control, torch.no_grad():
        model.module(input_ids=masked.batch.input_ids, attention_mask=masked.batch.attention_mask.long())
    assert control.numel >= everything, "the watcher must see what it is there for"


# -- training


def test_a_model_learns_and_says_how_it_was_made(make: Make, encoder: str, text: str, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    config = make(epochs=8, evaluations_per_epoch=1, max_train_rows=None)
    seen: list[dict[str, Any]] = []
    before = torch.random.get_rng_state()
    folder = train_mlm(config, on_evaluation=seen.append)
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator must stay as it was"
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"], "no checkpoint is left"
    record = record_of(folder)
    cut = cut_texts(load_texts(text), 0, 16, 32)
    assert (record["task"], record["text"], record["trained_on"], record["head"]) == ("mlm", [text], "train", "drawn")
    assert record["fingerprint"] == cut.fingerprint and record["source"] is None
    assert (record["train_rows"], record["selection_rows"]) == (len(cut.train), 32)
    assert record["history"] == seen and len(seen) == 8
    best = min(seen, key=lambda entry: (entry["loss"], -entry["accuracy"]))
    assert record["best_step"] == best["step"]
    assert record["selection"] == pytest.approx({key: best[key] for key in ("loss", "accuracy")})
    assert record["selection"]["loss"] < math.log(len(WORDS)) - 0.5, "better than to know the words alone"

    # Literally: the library's own model over the whole vocabulary, on the fixed masking.
    reference = AutoModelForMaskedLM.from_pretrained(folder).eval()
    assert type(reference).__name__ == "BertForMaskedLM" and reference.dtype == torch.float32
    assert reference.cls.predictions.decoder.weight is reference.bert.embeddings.word_embeddings.weight
    data = prepare(config, pretrained.load_tokenizer(str(folder)), torch.device("cpu"))
    losses, right = [], []
    for chunk in data.chunks:
        for row in range(len(chunk.batch.input_ids)):
            there = chunk.batch.attention_mask[row]
            with torch.no_grad():
                logits = reference(input_ids=chunk.batch.input_ids[row][there][None]).logits[0]
            for place, target in zip(
                chunk.places[chunk.rows == row].tolist(), chunk.targets[chunk.rows == row].tolist(), strict=True
            ):
                losses.append(-float(torch.log_softmax(logits[place].double(), -1)[target]))
                right.append(int(logits[place].argmax()) == target)
    assert np.mean(losses) == pytest.approx(record["selection"]["loss"], abs=1e-5)
    assert np.mean(right) == pytest.approx(record["selection"]["accuracy"])

    # It is an encoder like any other, and one whose past is known.
    classifier = pretrained.load_encoder(str(folder), num_labels=2)
    assert torch.equal(classifier.base_model.embeddings.word_embeddings.weight, reference.get_input_embeddings().weight)
    further = record_of(train_mlm(make(name_or_path=str(folder), output=str(tmp_path / "further"))))
    assert further["head"] == "kept" and further["history"][0]["loss"] < seen[0]["loss"]
    own = {"task": "mlm", "trained_on": "train", "fingerprint": record["fingerprint"], "source": None}
    assert further["source"] == own


def test_masking_is_drawn_anew_in_every_update_and_rows_come_once_an_epoch(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    update = module._update

    def spy(config: Any, model: Any, optimizer: Any, masked: Any, step: int, rate: float) -> float:
        found.append((masked, rate))
        return update(config, model, optimizer, masked, step, rate)

    monkeypatch.setattr(module, "_update", spy)
    config = make(epochs=2, batch_size=512, learning_rate=0.5, warmup=0.5)
    train_mlm(config)
    (first, rate), (second, later) = found
    assert (rate, later) == (0.5, 0.5), "warm-up over the first of two updates, decay from the second on"
    originals = []
    for masked, _ in found:
        ids = masked.batch.input_ids.clone()
        ids[masked.rows, masked.places] = masked.targets
        originals.append(sorted(ids.tolist()))
    assert originals[0] == originals[1] and len(originals[0]) == 96
    # Sorted by length, both epochs offer the same places: only the draw can differ.
    assert first.batch.attention_mask.sum(1).tolist() == second.batch.attention_mask.sum(1).tolist()
    assert list(zip(first.rows.tolist(), first.places.tolist(), strict=True)) != list(
        zip(second.rows.tolist(), second.places.tolist(), strict=True)
    )


def test_the_head_alone_is_trained_where_the_encoder_is_to_stay(
    make: Make, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: set[tuple[bool, bool]] = set()

    def spy(model: Any, masked: Any, precision: str) -> torch.Tensor:
        base = model.module.base_model
        modes.add((base.training, any(parameter.requires_grad for parameter in base.parameters())))
        return masked_logits(model, masked, precision)

    monkeypatch.setattr(module, "masked_logits", spy)
    start = new_masked_lm(encoder, seed=0)
    base = {f"bert.{name}": tensor for name, tensor in start.module.base_model.state_dict().items()}
    head = {name: value.detach().clone() for name, value in head_parameters(start).items()}
    tensors = weights(train_mlm(make(train_encoder=False)))
    assert all(torch.equal(tensors[name], value) for name, value in base.items() if name in tensors)
    assert sum(name in tensors for name in base) > 30
    assert all(not torch.equal(tensors[name], value) for name, value in head.items() if name in tensors)
    assert len(set(head) & set(tensors)) == len(head)
    assert modes == {(False, False)}, "no dropout, and no gradient that nobody needs"


def test_precision_seed_and_depth_decide_what_comes_out(make: Make, tmp_path: Path) -> None:
    variants = [{}, {"resume": False}, {"seed": 1}, {"precision": "bf16"}, {"num_hidden_layers": 1}]
    folders = [
        train_mlm(make(**options, epochs=1, output=str(tmp_path / str(place))))
        for place, options in enumerate(variants)
    ]
    first, again, *others = map(weights, folders)
    assert same(first, again) and not any(same(first, other) for other in others)
    assert all(tensor.dtype == torch.float32 for tensor in others[1].values())
    assert not any("layer.1." in name for name in others[2])


@pytest.mark.parametrize(("at", "options"), [(1, {}), (3, {}), (1, {"train_encoder": False})])
def test_an_interrupted_run_ends_in_the_same_weights(
    make: Make, tmp_path: Path, at: int, options: dict[str, Any]
) -> None:
    whole = train_mlm(make(**options, output=str(tmp_path / "whole")))
    config = make(**options)
    seen: list[int] = []

    def stop(entry: dict[str, Any]) -> None:
        seen.append(entry["step"])
        if len(seen) == at:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_mlm(config, on_evaluation=stop)
    assert not Path(config.output).exists()
    resumed = train_mlm(config, on_evaluation=stop)
    assert seen == [entry["step"] for entry in record_of(whole)["history"]], "nothing is done twice"
    assert same(weights(whole), weights(resumed)) and record_of(whole) == record_of(resumed)


def test_a_crash_between_two_checkpoints_and_other_options(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_mlm(make(output=str(tmp_path / "whole")))
    per_epoch = math.ceil(record_of(whole)["train_rows"] / 16)
    update = module._update
    with monkeypatch.context() as patch:

        def crash(config: Any, model: Any, optimizer: Any, masked: Any, step: int, rate: float) -> float:
            if step == per_epoch + 2:
                raise Interrupted
            return update(config, model, optimizer, masked, step, rate)

        patch.setattr(module, "_update", crash)
        with pytest.raises(Interrupted):
            train_mlm(make())
    with pytest.raises(ValueError, match=r"mask_rate \(0.15 there, 0.2 here\).*resume=false"):
        train_mlm(make(mask_rate=0.2))
    assert same(weights(whole), weights(train_mlm(make())))


def test_a_finished_model_is_returned_and_never_overwritten(make: Make) -> None:
    config = make(epochs=1)
    folder = train_mlm(config)
    stamp = (folder / "model.safetensors").stat().st_mtime_ns

    def never(entry: dict[str, Any]) -> None:
        raise AssertionError("nothing is to be trained")

    assert train_mlm(dataclasses.replace(config, resume=False), on_evaluation=never) == folder
    with pytest.raises(ValueError, match=r"mask_rate \(0.15 there, 0.3 here\); choose another output"):
        train_mlm(make(epochs=1, mask_rate=0.3))
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_loss_that_is_not_finite_is_named(make: Make) -> None:
    with pytest.raises(FloatingPointError, match=r"is nan at update \d+; lower learning_rate=1e\+30"):
        train_mlm(make(learning_rate=1e30, warmup=0))


# -- refusals before any work


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_rte": 0.1}, "mask_rte.*Did you mean 'mask_rate'"),
        ({"text": None}, "needs text; give text=..."),
        ({"mask_rate": 0}, "mask_rate=0 must be strictly between 0 and 1"),
        ({"mask_rate": 1.0}, "mask_rate=1.0 must be strictly between 0 and 1"),
        ({"train_encoder": "no"}, "train_encoder='no' must be true or false"),
        ({"epochs": 0}, "epochs=0"),
        ({"max_length": 2}, "max_length=2"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"warmup": 2}, "warmup=2"),
        ({"precision": "fp16"}, "'fp16'.*bf16"),
        ({"output": ""}, "output=''"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
    ],
)
def test_bad_options(make: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.filterwarnings("ignore:The tokenizer of .* reads about:UserWarning")
def test_texts_that_do_not_fit_the_encoder(make: Make, tmp_path: Path) -> None:
    (tmp_path / "long").mkdir()
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, size=60)) for _ in range(40)]
    (tmp_path / "long" / "a.txt").write_text("\n".join(lines))
    long = {"text": str(tmp_path / "long"), "feedback_rows": 4, "selection_rows": 4}
    with pytest.raises(ValueError, match=r"62 tokens, .* only 40 positions; set max_length"):
        train_mlm(make(**long))
    train_mlm(make(**long, max_length=40, epochs=1))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "a.txt").write_text("\n".join(f"x{i} y{i}" for i in range(40)))
    with pytest.raises(ValueError, match="has 1 ordinary tokens"):
        train_mlm(make(**{**long, "text": str(tmp_path / "foreign")}, output=str(tmp_path / "other")))


# -- the command


def command(*words: str) -> int:
    return main(["teacher", "objective=mlm", "progress=false", "device=cpu", *words])


@pytest.mark.filterwarnings("ignore:The tokenizer of .* reads about:UserWarning")
def test_the_command_from_the_embedded_text_to_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], encoder: str, text: str
) -> None:
    small = ["teacher.epochs=1", "task.max_train_rows=64", "task.feedback_rows=16", f"cache_dir={tmp_path}"]
    assert command(*small, "teacher.learning_rate=0.003") == 0
    (folder,) = (tmp_path / "teachers").iterdir()
    said = capsys.readouterr().out
    assert "Masked language model of toy, trained by `kd-env teacher objective=mlm" in said and str(folder) in said
    record = record_of(folder)
    assert f"selection: {record['selection']}" in said and record["train_rows"] == 64
    assert record["source"] == {"task": "toy", "trained_on": "rows apart from every split"}
    lm = load_masked_lm(str(folder))
    assert lm.module.get_output_embeddings().weight is lm.module.get_input_embeddings().weight
    assert token_facts(pretrained.load_tokenizer(str(folder)), str(folder)).mask_id == 4

    own = [f"teacher.name_or_path={encoder}", f"text=[{text},toy]", "mask_rate=0.3", "train_encoder=false"]
    assert command(*small, *own, f"output={tmp_path / 'own'}") == 0
    config = json.loads((tmp_path / "own" / "kd_env_teacher.json").read_text())["config"]
    assert (config["text"], config["mask_rate"], config["train_encoder"]) == ([text, "toy"], 0.3, False)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["objective=mml"], ["Unknown objective 'mml'", "Did you mean 'mlm'"]),
        (["objective=classification", "text=toy"], ["objective=classification", "reads text", "objective=mlm"]),
        (["teacher.keep=last", "teacher.init=fresh"], ["reads teacher.init, teacher.keep"]),
        (["members=[{name: a}]"], ["members=", "leave it out"]),
        (["task.label_noise=0.1"], ["task.label_noise=0.1"]),
        (["teacher.path=x"], ["teacher.path=x"]),
        (["text=sst2"], ["text=sst2 needs an encoder", "teacher.name_or_path"]),
        (["text=sst3", "teacher.name_or_path=x"], ["x"]),
        (["task=custom"], ["objective=mlm needs text="]),
        (["mask_rate=1"], ["mask_rate=1", "strictly between"]),
        (["text_column=text"], ["column='text'"]),
    ],
)
def test_the_command_refuses(
    words: list[str], expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["objective=mlm"] if not any(word.startswith("objective") for word in words) else []
    assert main(["teacher", *given, *words, "progress=false", f"output={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr().err
    assert all(part in said for part in expected), said
    assert not (tmp_path / "out").exists()


def test_help_shows_the_objective(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["teacher", "--help"]) == 0
    said = capsys.readouterr().out
    for part in ("objective=classification", "text=null", "text_column=null", "mask_rate=0.15", "objective=mlm text="):
        assert part in said
