"""Co-fine-tuning: several encoders learn together under one shared pooling and one shared prediction layer.

Source: MT-BERT (Wu et al., Findings of ACL 2021): the loss is the sum over encoders of the cross-entropy on gold.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd_env.core import checks
from kd_env.core.locks import alone
from kd_env.core.records import SET_RECORD, read_set_record
from kd_env.data.loading import get_task
from kd_env.data.tasks import Task
from kd_env.finetuning.config import (
    EncoderOptions,
    TrainingOptions,
    check_encoder,
    check_training,
    encoder_identity,
    from_options,
)
from kd_env.finetuning.contents import MADE_FROM, encoders_of, task_contents
from kd_env.finetuning.loop import Trainee, evaluate, making, summary, train, verdict
from kd_env.finetuning.model import start_classifier
from kd_env.finetuning.preparation import check_can_teach, check_fits, prepare, split_fingerprint
from kd_env.finetuning.store import Checkpoints, becoming, chained, finished, source_record, write_record
from kd_env.models import pretrained
from kd_env.models.library.reading import quiet_transformers
from kd_env.models.pooling import AttentionPooling, PooledClassifier, save_pooled

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, kw_only=True)
class Member(EncoderOptions):
    """One encoder of a set."""

    name: str
    """Of its folder inside the output."""
    seed: int | None = None
    """Of the weights that are its own and drawn (``init=fresh``, the map to the shared width); None: the set's seed
    plus its place from 0."""


@dataclass(frozen=True, kw_only=True)
class CoTeacherConfig(TrainingOptions):
    """Options of :func:`cofinetune`; the learning rate, the schedule and the norm of gradients are the whole set's."""

    members: tuple[Member, ...]
    shared_width: int | None = None
    """Width of the shared layers; encoders of another width get a linear map of their own. None: the widest's."""

    @classmethod
    def from_kwargs(cls, **options: Any) -> CoTeacherConfig:
        """Validated configuration from plain keywords; ``members`` may be mappings with the fields of a member."""
        members = options.get("members")
        if members is not None:
            if not isinstance(members, list | tuple) or not all(
                isinstance(member, Mapping | Member) for member in members
            ):
                checks.refuse("members", members, "a list of mappings with name and name_or_path")
            options["members"] = tuple(
                member
                if isinstance(member, Member)
                else from_options(
                    Member, {str(key): member[key] for key in member}, f"option of members[{place}]", "A member"
                )
                for place, member in enumerate(members)
            )
        config = from_options(cls, options, "option of a teacher set", "Co-fine-tuning")
        config.validate()
        return config

    def validate(self) -> None:
        """Raise ``ValueError`` for the first value outside its range."""
        check_training(self)
        checks.check_fields("", self, {"shared_width": checks.optional(checks.whole(1))})
        if not self.members:
            raise ValueError("members is empty; name at least one encoder: {name: ..., name_or_path: ...}.")
        seen: set[str] = set()
        for place, member in enumerate(self.members):
            if not isinstance(member.name, str) or not _NAME.fullmatch(member.name):
                allowed = "a folder's name of letters, digits, dashes and underscores"
                checks.refuse(f"members[{place}].name", member.name, allowed)
            if member.name in seen:
                raise ValueError(f"Two members are named {member.name!r}; give every member a name of its own.")
            seen.add(member.name)
            check_encoder(member, f"members[{place}].")
            checks.check_fields(f"members[{place}].", member, {"seed": checks.optional(checks.whole(0))})

    def identity(self) -> dict[str, Any]:
        """The options that decide what comes out, those of every member among them."""
        members = [encoder_identity(dataclasses.asdict(member)) for member in self.members]
        return {**super().identity(), "members": members}


def cofinetune(config: CoTeacherConfig, *, on_evaluation: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Train all members jointly on ``sum_i CE(y, yhat_i)`` over train rows and write them as one set.

    Every encoder is its own, and reads the rows in its own tokens where its tokenizer is another than the first one's
    (BERT beside RoBERTa); attention pooling and prediction layer are shared (squared error in place of the
    cross-entropy for regression). The checkpoint with the lowest summed loss on the selection split is kept; the rest
    is as in :func:`kd_env.finetuning.classifier.finetune`: the rows, exact resume, and what happens to an output that
    exists.

    Args:
        config: the options.
        on_evaluation: called after each evaluation with ``step``, ``epoch``, the summed ``loss``, the mean of each of
            the task's metrics, and ``members``: name -> loss and metrics.

    Returns:
        The output folder. It holds ``kd_env_set.json`` and a folder for each member (encoder, tokenizer, pooling,
        record), which stands alone as a teacher; see :func:`members`.

    Raises:
        ValueError: bad options or data, no model, an output that holds something else; before any training.
        FloatingPointError: a loss that is not finite, with step and rows.
    """
    config.validate()
    output = Path(config.output)
    task = get_task(config.task, config.columns, config.data_dir)
    contents = task_contents(config.task, config.data_dir, [member.name_or_path for member in config.members])
    fingerprint = partial(split_fingerprint, config)
    is_finished = partial(finished, output, config.identity(), contents, fingerprint, "teacher set", read_set_record)
    if is_finished():
        return output
    from kd_env.models.devices import resolve_device

    device = resolve_device(config.device)
    for member in config.members:
        pretrained.check_source(member.name_or_path)
    task = get_task(config.task, config.columns, config.data_dir)
    sources = [member.name_or_path for member in config.members]
    tokenizers = [pretrained.load_tokenizer(source) for source in sources]
    started = _start(config, task)
    encoders = [model.base_model for model, _ in started]
    data = prepare(config, task, tokenizers[0], sources[0], device, members=list(zip(tokenizers, sources, strict=True)))
    # Members of one vocabulary have the first one's tokenizer, by which they were trained.
    tokenizers = [
        tokenizer if data.of(place).train is not data.train else tokenizers[0]
        for place, tokenizer in enumerate(tokenizers)
    ]
    for place, (model, _) in enumerate(started):
        check_fits(sources[place], tokenizers[place], model, data.of(place))
        check_can_teach(sources[place], model, data.of(place), config.max_length)
    classifiers = join(encoders, task.num_labels, config)
    module = nn.ModuleList(classifiers).to(device)
    names = tuple(member.name for member in config.members)
    trainee = Trainee(f"teachers {config.task}", module, tuple(classifiers), names)
    with alone(output, "teacher set"):
        if is_finished():
            return output
        identity = {**config.identity(), "fingerprint": data.cut.fingerprint, **encoders_of(contents)}
        store = Checkpoints(output, identity, resume=config.resume)
        state = train(config, data, trainee, store, on_evaluation)
        store.load_model(state["best_step"], module)
        evaluations = evaluate(config, data, trainee)
        shared = {"members": list(names), "shared_width": classifiers[0].prediction.in_features}
        seen = [source for _, source in started]
        with quiet_transformers(), becoming(output) as folder:
            for place, (name, model) in enumerate(zip(names, classifiers, strict=True)):
                (folder / name).mkdir()
                save_pooled(model, folder / name)
                tokenizers[place].save_pretrained(folder / name)
                # What another member had seen reaches this one through the shared layers.
                source = chained([seen[place], *seen])
                record = {**making(config, data, state, source), **verdict(data, evaluations[place])}
                record[MADE_FROM] = contents
                write_record(folder / name, {**record, "set": {**shared, "name": name}})
            record = {**shared, **making(config, data, state, chained(seen))}
            record |= {"selection": summary(trainee, evaluations), MADE_FROM: contents}
            write_record(folder, record, SET_RECORD)
        store.remove()
    return output


def join(encoders: Sequence[Any], num_labels: int, config: CoTeacherConfig) -> list[PooledClassifier]:
    """Classifiers of the encoders that hold the same pooling and prediction modules, drawn from the set's seed."""
    width = config.shared_width or max(int(encoder.config.hidden_size) for encoder in encoders)
    with torch.random.fork_rng(devices=[]):  # layers are drawn before they are drawn by seed
        pooling, prediction = AttentionPooling(width), nn.Linear(width, num_labels)
        classifiers = [PooledClassifier(encoder, pooling, prediction) for encoder in encoders]
    shared = torch.Generator().manual_seed(config.seed)
    std = float(getattr(encoders[0].config, "initializer_range", 0.02))
    for layer in (pooling.project, pooling.score, prediction):
        _draw(layer, std, shared)
    for place, model in enumerate(classifiers):
        if isinstance(model.width_map, nn.Linear):
            # Keeps the scale of hidden states, which are normalised.
            generator = torch.Generator().manual_seed(_seed(config, place))
            _draw(model.width_map, model.width_map.in_features**-0.5, generator)
    return classifiers


def _draw(layer: nn.Linear, std: float, generator: torch.Generator) -> None:
    with torch.no_grad():
        layer.weight.normal_(0.0, std, generator=generator)
        if layer.bias is not None:
            layer.bias.zero_()


def _seed(config: CoTeacherConfig, place: int) -> int:
    seed = config.members[place].seed
    return config.seed + place if seed is None else seed


def _start(config: CoTeacherConfig, task: Task) -> list[tuple[Any, dict[str, Any] | None]]:
    """Classifiers, of which the encoders are trained, and what they had seen before."""
    classifiers = []
    for place, member in enumerate(config.members):
        model, had_head = start_classifier(member, task, _seed(config, place), f"members[{place}].")
        source = None if member.init == "fresh" else source_record(member.name_or_path, had_head)
        classifiers.append((model, source))
    return classifiers
