"""How a student that ships is loaded, as code for its card."""

from __future__ import annotations

import json

from kd_env.evaluation.shipping.facts import INT8, ONNX, Facts

ONNX_FILES = {ONNX: "onnx/model.onnx", INT8: "onnx/model_int8.onnx"}
"""Where the files lie in the folder."""


def loading(facts: Facts) -> str:
    """Python that runs beside the folder, or anywhere once it is on the hub."""
    blocks = [_transformers(facts) if facts.plain else _kd_env(facts)]
    text = "\n\n".join(_block(code) for code in blocks)
    if not facts.plain:
        text = (
            "It has attention pooling, which `AutoModelForSequenceClassification` and `pipeline` do not know; kd-env "
            f"reads it:\n\n{text}"
        )
    onnx = next((path for name, path in ONNX_FILES.items() if name in facts.costs), None)
    return text if onnx is None else f"{text}\n\nWith ONNX Runtime (of a local folder):\n\n{_block(_onnx(facts, onnx))}"


def _transformers(facts: Facts) -> str:
    text = '{"text": "A text.", "text_pair": "Another one."}' if facts.task.pair else '"A text."'
    score = ', function_to_apply="none"' if facts.task.label_range is not None else ""
    return (
        "from transformers import pipeline\n\n"
        f'classifier = pipeline("text-classification", model={_quoted(facts.name)})\n'
        f"print(classifier({text}, truncation=True, max_length={facts.task.max_length}{score}))"
    )


def _kd_env(facts: Facts) -> str:
    return (
        "from kd_env.models.pretrained import load_encoder, load_tokenizer\n\n"
        f"model, tokenizer = load_encoder({_quoted(facts.name)}), load_tokenizer({_quoted(facts.name)})\n"
        f"print(model(**{_encoded(facts, 'pt')}).logits)"
    )


def _onnx(facts: Facts, path: str) -> str:
    return (
        "from onnxruntime import InferenceSession\nfrom transformers import AutoTokenizer\n\n"
        f"folder = {_quoted(facts.name.split('/')[-1])}\n"
        f'session, tokenizer = InferenceSession(f"{{folder}}/{path}"), AutoTokenizer.from_pretrained(folder)\n'
        f"encoded = {_encoded(facts, 'np')}\n"
        "inputs = {each.name: encoded[each.name] for each in session.get_inputs()}\n"
        'print(session.run(["logits"], inputs)[0])'
    )


def _encoded(facts: Facts, kind: str) -> str:
    texts = '"A text.", "Another one."' if facts.task.pair else '"A text."'
    return f'tokenizer({texts}, truncation=True, max_length={facts.task.max_length}, return_tensors="{kind}")'


def _quoted(text: str) -> str:
    """As Python writes it in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _block(code: str) -> str:
    return f"```python\n{code}\n```"
