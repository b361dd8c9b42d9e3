"""The embedded tasks: two small languages made by grammars, so that everything runs without a network or files.

``toy`` is the sentiment of one sentence, with negation, intensifiers and contrast; ``toy_pair`` is entailment between
two sentences, with quantifiers, negation and a hierarchy of nouns. Rows are drawn from a fixed seed and never change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from kd_env.core.registry import unknown_name
from kd_env.data.tasks import Rows

SplitName = Literal["train", "validation", "teacher"]
SIZES: dict[str, int] = {"train": 5200, "validation": 1200, "teacher": 16000}  # in the order in which they are drawn
_SEED = 20240
_DRAWS = 24  # uniform numbers that one row may use


class _Example(NamedTuple):
    first: str
    second: str | None


Draw = Callable[[], float]  # the next uniform number in [0, 1) of this row


def teacher_folder(name: str) -> Path:
    """Folder of the packaged teacher and tokenizer of an embedded task (Hugging Face layout)."""
    _check(name)
    return Path(__file__).parent.parent / "assets" / name


def teacher_set(name: str) -> dict[str, str]:
    """Folders of the packaged teachers of an embedded task by name: the teacher itself, a narrow and a shallow one."""
    folder = teacher_folder(name)
    members = {member: str(folder.with_name(f"{name}-{member}")) for member in ("narrow", "shallow")}
    return {"full": str(folder), **members}


def masked_lm_folder(name: str) -> Path | None:
    """Folder of the packaged masked language model of an embedded task; None where there is none."""
    folder = Path(__file__).parent.parent / "assets" / f"{name}-mlm"
    return folder if folder.is_dir() else None


def toy_rows(name: str, split: SplitName) -> Rows:
    """Rows of an embedded task: 5,200 ``train``, 1,200 ``validation`` and 16,000 ``teacher`` rows.

    Labels are balanced, and no sentence stands in two rows of any split; the packaged teachers are trained on
    ``teacher`` alone.

    Raises:
        ValueError: unknown task or split.
    """
    _check(name)
    if split not in SIZES:
        raise ValueError(unknown_name("split of an embedded task", split, SIZES))
    rows = _generate(name, split)
    return Rows(list(rows.first), None if rows.second is None else list(rows.second), rows.labels.copy())


def vocabulary(name: str) -> tuple[str, ...]:
    """Every word of an embedded task, sorted."""
    _check(name)
    return tuple(sorted(_words(_SENTIMENT_WORDS if name == "toy" else _ENTAILMENT_WORDS)))


def _check(name: str) -> None:
    if name not in _GRAMMARS:
        raise ValueError(unknown_name("embedded task", name, _GRAMMARS))


@cache
def _generate(name: str, split: str) -> Rows:
    names = list(SIZES)
    earlier = [_generate(name, earlier_split) for earlier_split in names[: names.index(split)]]
    seen = {text for rows in earlier for column in (rows.first, rows.second or ()) for text in column}
    rng = np.random.default_rng([_SEED, names.index(split)])
    grammar = _GRAMMARS[name]
    count = SIZES[split]
    examples: list[_Example] = []
    while len(examples) < count:
        for numbers in rng.random((count, _DRAWS)).tolist():
            example = grammar(len(examples) % 2, iter(numbers).__next__)
            texts = {text for text in example if text is not None}
            # Distinct sentences, not only distinct rows: a shared one would tie rows of a pair task into one group.
            if seen.isdisjoint(texts):
                seen |= texts
                examples.append(example)
                if len(examples) == count:
                    break
    order = rng.permutation(count)
    shuffled = [examples[place] for place in order.tolist()]
    second = None if shuffled[0].second is None else [str(example.second) for example in shuffled]
    return Rows([example.first for example in shuffled], second, (order % 2).astype(np.int64))


def _pick(draw: Draw, words: Sequence[str]) -> str:
    return words[int(draw() * len(words))]


def _words(phrases: Sequence[Sequence[str]]) -> set[str]:
    return {word for group in phrases for phrase in group for word in phrase.split()}


# -- toy: sentiment ----------------------------------------------------------------------------------------------------

# Reporting clauses open every sentence and stand nowhere else, so no sentence can be contained in another.
_WHO = ("anna", "ben", "carla", "david", "emma", "frank", "greta", "henry", "irene", "jonas", "karen", "leo")
_SAID = ("said", "felt", "thought", "wrote", "claimed", "noted")
_THING = ("film", "plot", "music", "cast", "ending", "story", "acting", "script", "scenery", "humour", "camera", "hero")
_GOOD = ("great", "lovely", "funny", "clever", "moving", "warm")
_BAD = ("awful", "dull", "boring", "stupid", "messy", "cold")
_DEGREE = ("very", "really", "truly", "quite", "rather", "so")
_NOT = ("not", "never", "hardly")
_CONTRAST = ("but", "yet")
_CONCESSION = ("although", "though")
_SENTIMENT_WORDS = (_WHO, _SAID, _THING, _GOOD, _BAD, _DEGREE, _NOT, _CONTRAST, _CONCESSION, ("that the was , .",))


def _sentiment(label: int, draw: Draw) -> _Example:
    opener = f"{_pick(draw, _WHO)} {_pick(draw, _SAID)} that"
    main = _clause(label, draw)
    form = draw()
    if form < 0.6:
        return _Example(f"{opener} {main} .", None)
    # The other clause mostly disagrees, and the main one decides.
    contrast = _clause(1 - label if draw() < 0.6 else label, draw)
    if form < 0.75:
        return _Example(f"{opener} {contrast} {_pick(draw, _CONTRAST)} {main} .", None)
    if form < 0.88:
        return _Example(f"{opener} {_pick(draw, _CONCESSION)} {contrast} , {main} .", None)
    return _Example(f"{opener} {main} {_pick(draw, _CONCESSION)} {contrast} .", None)


def _clause(label: int, draw: Draw) -> str:
    negated = draw() < 0.12
    adjective = _pick(draw, _GOOD if (label == 1) != negated else _BAD)
    words = [f"the {_pick(draw, _THING)} was"]
    if negated:
        words.append(_pick(draw, _NOT))
    if draw() < 0.4:
        words.append(_pick(draw, _DEGREE))
    return " ".join([*words, adjective])


# -- toy_pair: entailment ----------------------------------------------------------------------------------------------

_Nouns = dict[str, tuple[str, ...]]  # a general word and the special ones below it
_SUBJECTS: _Nouns = {
    "animals": ("dogs", "cats", "goats"),
    "people": ("nurses", "farmers", "pilots"),
    "machines": ("robots", "cranes", "tractors"),
}
_OBJECTS: _Nouns = {
    "fruits": ("apples", "pears", "plums"),
    "tools": ("hammers", "saws", "rakes"),
    "toys": ("balls", "kites", "drums"),
}
_ADJECTIVES = ("small", "old", "red", "young", "quiet", "tall", "heavy", "slow")
_VERBS = ("find", "move", "drop", "carry", "see", "hide", "push", "lose")
_PLACES = ("here", "there", "outside", "upstairs", "today", "abroad", "weekly", "together")
_NOUNS = tuple(word for nouns in (_SUBJECTS, _OBJECTS) for group in nouns.items() for word in (group[0], *group[1]))
_ENTAILMENT_WORDS = (_NOUNS, _ADJECTIVES, _VERBS, _PLACES, ("some all no do not .",))


def _entailment(label: int, draw: Draw) -> _Example:
    """In every pair one noun becomes more general or more special; label 0 is entailment.

    ``some`` entails upwards in subject and object, ``all`` downwards in the subject, ``no`` downwards in both, ``do
    not`` turns the object's direction round, and ``all`` entails ``some`` (MacCartney and Manning 2009). A pair without
    entailment has one fault: negation added, a stronger quantifier, or the wrong direction.
    """
    fault = draw() if label == 1 else 1.0
    adds_negation, strengthens, turns = fault < 0.3, 0.3 <= fault < 0.6, 0.6 <= fault < 1
    number, quantifier = draw(), "some"
    if not strengthens and number > 0.4:
        quantifier = "all" if number < 0.75 else "no"
    negated = quantifier != "no" and not adds_negation and draw() < 0.35
    on_subject = draw() < 0.5
    upwards = quantifier == "some" if on_subject else not (negated or quantifier == "no")
    if turns:
        upwards = not upwards
    nouns, other_nouns = (_SUBJECTS, _OBJECTS) if on_subject else (_OBJECTS, _SUBJECTS)
    group = _pick(draw, tuple(nouns))
    special = _pick(draw, nouns[group])
    before, after = (special, group) if upwards else (group, special)
    other_noun = _pick(draw, other_nouns[_pick(draw, tuple(other_nouns))])
    adjective = f"{_pick(draw, _ADJECTIVES)} " if draw() < 0.5 else ""
    verb, place = _pick(draw, _VERBS), _pick(draw, _PLACES)

    def sentence(quantifier: str, noun: str, negated: bool) -> str:
        subject, target = (noun, other_noun) if on_subject else (other_noun, noun)
        return f"{quantifier} {adjective}{subject} {'do not ' if negated else ''}{verb} {target} {place} ."

    premise = sentence(quantifier, before, negated)
    later = quantifier
    if strengthens:
        later = "all"
    elif adds_negation and quantifier == "no":
        later, adds_negation = "some", False
    elif quantifier == "all" and not (turns and on_subject) and draw() < 0.3:
        later = "some"  # not where the subject's direction is the fault: some entails upwards too
    return _Example(premise, sentence(later, after, negated or adds_negation))


_GRAMMARS: dict[str, Callable[[int, Draw], _Example]] = {"toy": _sentiment, "toy_pair": _entailment}
