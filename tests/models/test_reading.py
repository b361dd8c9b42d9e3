"""Folders of models are read at one place: whole, bounded, quietly, one at a time, and never with code of their own."""

from __future__ import annotations

import ast
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from docs import house
from kd_env import build_problem
from kd_env.data.corpora import load_texts
from kd_env.data.loading import get_task, load_train
from kd_env.data.tables import tokenize
from kd_env.data.tasks import Rows
from kd_env.decisions.options import env_config
from kd_env.finetuning.classifier import TeacherConfig, finetune
from kd_env.finetuning.masked_lm import MlmConfig, train_mlm
from kd_env.models import pretrained
from kd_env.models.checks import check_encoder, check_masked_lm, probe_batch
from kd_env.models.encoder import Encoder, EncoderFacts
from kd_env.models.library.attention import ATTENTION, register_attention
from kd_env.models.library.bounds import check_config_file
from kd_env.models.loading import load_classifier
from kd_env.models.masked_lm import load_masked_lm
from kd_env.testing import WORDS, tiny_tokenizer

Change = Callable[[Path], object]


def copied(source: str, folder: Path, change: Change) -> str:
    shutil.copytree(source, folder)
    change(folder)
    return str(folder)


def with_config(**values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def with_tensor(name: str, edit: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        save_file({**tensors, name: edit(tensors[name])}, folder / "model.safetensors", {"format": "pt"})

    return change


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def one_word_more(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["zzqx"])
    tokenizer.save_pretrained(folder)


def own_code(folder: Path) -> None:
    with_config(model_type="new", auto_map={"AutoConfig": "code.C", "AutoModelForSequenceClassification": "code.M"})(
        folder
    )
    (folder / "code.py").write_text(f"import pathlib\npathlib.Path({str(folder / 'ran')!r}).touch()\n")


NAN = with_tensor("classifier.bias", lambda bias: torch.full_like(bias, float("nan")))
BROKEN: dict[str, tuple[Change, str]] = {
    "no tokenizer": (without_tokenizer, r"has no tokenizer .*tokenizer\.save_pretrained"),
    "no vocabulary": (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer"),
    "half a tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text()[:400]),
        r"The tokenizer of .* is damaged.*JSONDecodeError",
    ),
    "another tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        "The tokenizer of .* is damaged",
    ),
    "a word too many": (one_word_more, r"gives the id 45 \(for 'zzqx'\), its model has 45 embeddings \(0 to 44\)"),
    "NaN": (NAN, r"weights of .* are not finite: classifier\.bias holds 2 of NaN"),
    "own code": (own_code, r"only code in its own folder can build .*kd-env never runs code"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is damaged \(JSONDecodeError"),
    "a list": (lambda folder: (folder / "config.json").write_text("[1]"), r"config\.json holds no mapping"),
    "unknown family": (with_config(model_type="nothing"), r"config\.json of .* cannot be used"),
    "layers": (with_config(num_hidden_layers=10**7), r"num_hidden_layers=1e\+07 is above 1000"),
    "endless layers": (with_config(num_hidden_layers=10**400), "num_hidden_layers=inf is above 1000"),
    "width": (with_config(hidden_size=10**6), r"describes embeddings and layers of 1\.\d*e\+12 numbers"),
    "segments": (with_config(type_vocab_size=10**9, vocab_size=10**9), "describes embeddings and layers of"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_folders_that_are_not_what_they_say(fault: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    """As a teacher, as a student and for a fine-tuning: one line, at once, that names the cause and no network."""
    change, message = BROKEN[fault]
    folder = copied(tiny["teacher"], tmp_path / "folder", change)
    start = time.perf_counter()
    options = {
        "task": "custom",
        "data_dir": tiny["data_dir"],
        "columns": tiny["columns"],
        "output": str(tmp_path / "o"),
    }
    for use in (
        lambda: build_problem(env_config(**{**tiny, "teacher": folder})),
        lambda: build_problem(env_config(**{**tiny, "student": folder})),
        lambda: finetune(TeacherConfig.from_kwargs(**options, name_or_path=folder, show_progress=False)),
    ):
        with pytest.raises(ValueError, match=message) as error:
            use()
        assert "network" not in str(error.value)
        assert folder in str(error.value)
    assert time.perf_counter() - start < 10
    assert not (tmp_path / "folder" / "ran").exists()
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("fault", ["no tokenizer", "a word too many", "layers"])
def test_masked_language_models_that_are_not_what_they_say(
    fault: str, tiny_text: dict[str, Any], tmp_path: Path
) -> None:
    change, message = BROKEN[fault]
    folder = copied(tiny_text["teacher"], tmp_path / "folder", change)
    with pytest.raises(ValueError, match=message):
        build_problem(env_config(decision="tutor_token", **{**tiny_text, "teacher": folder}))
    config = {"text": tiny_text["text"], "name_or_path": folder, "output": str(tmp_path / "o"), "show_progress": False}
    with pytest.raises(ValueError, match=message):
        train_mlm(MlmConfig.from_kwargs(**config))


def test_a_masked_language_model_is_compared_with_the_librarys_own_pass(
    tiny_text: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kd_env.models import masked_lm

    model = load_masked_lm(tiny_text["teacher"])
    tokenizer = pretrained.load_tokenizer(tiny_text["teacher"])
    rows = Rows(["w1 w2 w3 w4", "w5"], None, torch.zeros(2).numpy())
    table = tokenize(rows, tokenizer, 16, torch.device("cpu"), torch.float32)
    check_masked_lm("here", tokenizer, model, table, 16)
    monkeypatch.setitem(masked_lm._TRANSFORMS, "bert", lambda module, hidden: hidden)
    with pytest.raises(ValueError, match=r"masked language model 'here' .* gives other logits"):
        check_masked_lm("here", tokenizer, model, table, 16)


def t5_classifier() -> Any:
    """With position biases as large as those of pre-trained ones, and our attention, which knows no such biases."""
    from transformers import T5Config, T5ForSequenceClassification

    register_attention()
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "eos_token_id": 3}
    config = T5Config(vocab_size=5 + len(WORDS), decoder_start_token_id=0, pad_token_id=0, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = T5ForSequenceClassification._from_config(config, attn_implementation=ATTENTION).eval()
        for name, parameter in model.named_parameters():
            if "relative_attention_bias" in name:
                torch.nn.init.normal_(parameter, std=3.0)
    return model


def test_position_biases_that_our_attention_does_not_know_are_found(tiny_problem: Any) -> None:
    """The module's own configurations are copies, each with our attention: the reference is built anew."""
    module = t5_classifier()
    encoder = Encoder(module, EncoderFacts(2, 16, 2, 2, 45), (), frozenset())
    batch = probe_batch(tiny_problem.train, 16, ())
    with pytest.raises(ValueError, match="gives other logits in kd-env's forward pass than on its own"):
        check_encoder(encoder, batch, (), "teacher")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("T5", "is an encoder-decoder"),
        ("DebertaV2", "cannot be run on an attention mask that is made for it"),
        ("GPT2", r"pads with the id 0 \('\[PAD\]'\), .* not pad_token_id=3 of its config"),
        ("Esm", r"cannot be run .*EsmForSequenceClassification|EsmForSequenceClassification\) cannot be run"),
    ],
)
def test_families_that_cannot_teach_are_refused_before_they_are_fine_tuned(
    kind: str, message: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    import transformers

    sizes: dict[str, Any] = {"vocab_size": 45, "num_labels": 2, "pad_token_id": 0}
    own: dict[str, dict[str, Any]] = {
        "T5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0},
        "GPT2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 40, "bos_token_id": 2, "eos_token_id": 3},
    }
    encoder = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    encoder |= {"max_position_embeddings": 40}
    if kind == "DebertaV2":
        encoder |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0}
        encoder |= {"conv_kernel_size": 3}  # a convolution over tokens, which reads masks of two dimensions alone
    if kind == "Esm":
        encoder |= {"mask_token_id": 4, "position_embedding_type": "absolute"}
    options = {**sizes, **own.get(kind, encoder)}
    if kind == "GPT2":
        options["pad_token_id"] = 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForSequenceClassification")(
            getattr(transformers, f"{kind}Config")(**options)
        )
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    config = {"task": "custom", "data_dir": tiny["data_dir"], "columns": tiny["columns"], "show_progress": False}
    with pytest.raises(ValueError, match=message):
        finetune(TeacherConfig.from_kwargs(**config, name_or_path=str(tmp_path / "model"), output=str(tmp_path / "o")))
    with pytest.raises(ValueError, match=message):
        build_problem(env_config(**{**tiny, "teacher": str(tmp_path / "model"), "student": tiny["teacher"]}))


def test_a_flag_is_no_dropout() -> None:
    """ESM's token_dropout scales embeddings."""
    from transformers import EsmConfig

    from kd_env.models.architecture import set_dropout

    config = EsmConfig(vocab_size=45, token_dropout=True, pad_token_id=0, mask_token_id=4)
    set_dropout(config, 0.0)
    assert config.token_dropout is True and config.hidden_dropout_prob == 0.0


def test_the_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own readers ask five times for every file, with pauses in between."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    start = time.perf_counter()
    with pytest.raises(
        ValueError, match=r"'some/encoder' could not be loaded: .* Without a network give a local folder"
    ):
        pretrained.load_encoder("some/encoder")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "read", [lambda: load_train(get_task("rte"), None), lambda: load_texts("a/set", column="text")]
)
def test_the_hub_is_asked_once_for_data(read: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """And the settings of the process are as they were afterwards."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"Could not read .* from the hub"):
        read()
    assert time.perf_counter() - start < 10
    assert constants.HF_HUB_OFFLINE is False


def test_a_model_of_the_hubs_cache_is_read_without_a_network(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot(name: str, **options: Any) -> str:
        asked.append((name, options))
        return tiny["teacher"]  # type: ignore[no-any-return]

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert pretrained.load_encoder("some/encoder").config.model_type == "bert"
    assert len(pretrained.load_tokenizer("some/encoder")) == 45
    assert [name for name, _ in asked] == ["some/encoder"] * 2
    assert not any(pattern.endswith((".bin", ".py")) for pattern in asked[0][1]["allow_patterns"])


def test_loading_in_threads_leaves_the_library_as_it_was(tiny: dict[str, Any]) -> None:
    """While it loads, the library exchanges settings and functions of the whole process."""
    from transformers.utils import logging

    def settings() -> tuple[Any, ...]:
        functions = (torch.nn.init.normal_, torch.nn.init.kaiming_uniform_, torch.nn.Linear.reset_parameters)
        return (logging.get_verbosity(), logging.is_progress_bar_enabled(), torch.get_default_dtype(), *functions)

    before, random = settings(), torch.get_rng_state()
    loaded: list[Any] = []
    threads = [
        threading.Thread(target=lambda: loaded.extend(pretrained.load_encoder(tiny["teacher"]) for _ in range(3)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 18 and settings() == before
    assert torch.equal(torch.get_rng_state(), random)


def test_what_the_library_shares_or_knows_is_no_fault(tmp_path: Path) -> None:
    """Sizes of the largest encoders, and of those without weights beside them."""
    config = {"model_type": "bert", "num_hidden_layers": 48, "hidden_size": 2560, "intermediate_size": 10240}
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 50_000, "block_size": 4096}))
    assert check_config_file(tmp_path)["num_hidden_layers"] == 48
    for name, value, message in (
        ("inner_group_num", 500, "make 24000 blocks"),
        ("block_sizes", [1] * 2000, "block_sizes=2000 is above 1000"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, name: value}))
        with pytest.raises(ValueError, match=message):
            check_config_file(tmp_path)
    (tmp_path / "config.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match="is damaged"):
        check_config_file(tmp_path)
    (tmp_path / "config.json").write_bytes(b" " * (2**24 + 1))
    with pytest.raises(ValueError, match="has 16777217 bytes"):
        check_config_file(tmp_path)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_code_of_the_hub_that_a_configuration_names_is_not_asked_for(
    key: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    """The library would fetch such a function from the hub and run it."""
    folder = copied(tiny["teacher"], tmp_path / "folder", with_config(**{key: "someone/function"}))
    task = get_task("custom", tiny["columns"], tiny["data_dir"])
    model = load_classifier(folder, task, None, seed=0).model
    assert model.config._attn_implementation == "sdpa"
    assert pretrained.load_encoder(folder).config._attn_implementation == ATTENTION


def test_a_file_is_no_folder_of_a_model(tiny: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"model\.safetensors' is a file; give the folder that holds it"):
        pretrained.load_encoder(f"{tiny['teacher']}/model.safetensors")


def test_models_are_read_at_one_place_without_code_of_folders() -> None:
    calls = {}
    for path in house.sources(*house.PACKAGES):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if ".from_pretrained(" in text else ():
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained":
                calls.setdefault(str(path.relative_to(house.ROOT)), []).append(node)
    assert list(calls) == ["kd_env/models/library/reading.py"]
    for call in calls["kd_env/models/library/reading.py"]:
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        fast = getattr(call.func.value, "id", "") == "PreTrainedTokenizerFast"  # reads JSON alone
        assert fast or (isinstance(code := given["trust_remote_code"], ast.Constant) and code.value is False)
        assert isinstance(local := given["local_files_only"], ast.Constant) and local.value is True
