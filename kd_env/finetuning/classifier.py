"""Fine-tuning of a teacher on train rows alone, with progress, choice on the selection split, and resume."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kd_env.core.locks import alone
from kd_env.core.records import read_record
from kd_env.data.loading import get_task
from kd_env.finetuning.config import TeacherConfig
from kd_env.finetuning.contents import MADE_FROM, encoders_of, task_contents
from kd_env.finetuning.loop import Trainee, evaluate, making, train, verdict
from kd_env.finetuning.model import start_classifier
from kd_env.finetuning.preparation import check_can_teach, check_fits, prepare, split_fingerprint
from kd_env.finetuning.store import Checkpoints, becoming, finished, source_record, write_record
from kd_env.models import pretrained
from kd_env.models.library.padding import settle_padding
from kd_env.models.library.reading import quiet_transformers

__all__ = ["TeacherConfig", "finetune", "teacher_record"]


def finetune(config: TeacherConfig, *, on_evaluation: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Fine-tune a sequence classifier on train rows and write it as a Hugging Face folder with its record.

    AdamW with linear warm-up and decay on batches of similar length. The checkpoint with the lowest loss on the
    selection split is kept, ties going to the better headline metric (``keep=last``: the last one; ``keep=n``: the one
    after epoch n); the official dev split is never read. A finished output of the same options is returned as it is. An
    interrupted run continues from its last evaluation to the same weights, bit for bit on the CPU of one machine. Of
    several processes that want the same output one trains; the others wait for it.

    Args:
        config: the options.
        on_evaluation: called after each evaluation with ``step``, ``epoch``, ``loss`` and the task's metrics.

    Returns:
        The output folder.

    Raises:
        ValueError: bad options or data, no model, an output that holds something else; before any training.
        FloatingPointError: a loss that is not finite, with step and rows.
    """
    config.validate()
    output = Path(config.output)
    task = get_task(config.task, config.columns, config.data_dir)
    contents = task_contents(config.task, config.data_dir, [config.name_or_path])
    is_finished = partial(finished, output, config.identity(), contents, partial(split_fingerprint, config))
    if is_finished():
        return output
    from kd_env.models.devices import resolve_device

    device = resolve_device(config.device)
    pretrained.check_source(config.name_or_path)
    task = get_task(config.task, config.columns, config.data_dir)
    model, had_head = start_classifier(config, task, config.seed)
    source = None if config.init == "fresh" else source_record(config.name_or_path, had_head)
    tokenizer = pretrained.load_tokenizer(config.name_or_path)
    settle_padding(tokenizer, model, config.name_or_path)
    data = prepare(config, task, tokenizer, config.name_or_path, device)
    check_fits(config.name_or_path, tokenizer, model, data)
    check_can_teach(config.name_or_path, model, data, config.max_length)
    trainee = Trainee(f"teacher {config.task}", model, (model.to(device),), ())
    with alone(output, "teacher"):
        if is_finished():  # by another process, while this one waited
            return output
        identity = {**config.identity(), "fingerprint": data.cut.fingerprint, **encoders_of(contents)}
        store = Checkpoints(output, identity, resume=config.resume)
        state = train(config, data, trainee, store, on_evaluation)
        store.load_model(state["best_step"], model)
        [evaluation] = evaluate(config, data, trainee)
        with quiet_transformers(), becoming(output) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            record = {**making(config, data, state, source), **verdict(data, evaluation), MADE_FROM: contents}
            write_record(folder, record)
        store.remove()
    return output


def teacher_record(folder: str | Path) -> dict[str, Any] | None:
    """What a teacher folder says about its own making; None for a foreign teacher, an error if damaged."""
    return read_record(folder)
