"""One HTML file from the parts of a report: no script, no font, nothing from a network."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from urllib.parse import quote

from kd_env.evaluation.pages.contents import Picture, Section, Source, Study
from kd_env.evaluation.pages.style import STYLE
from kd_env.evaluation.pages.tables import as_html
from kd_env.evaluation.pages.verdict import AHEAD, BEHIND, LEVEL, Verdict

_MARKS = {AHEAD: "▲", LEVEL: "=", BEHIND: "▼"}
_VERSIONS = ("kd-env", "python", "torch", "numpy", "platform", "cpus", "threads")


def page(study: Study, verdicts: Sequence[Verdict], parts: Sequence[Section]) -> str:
    """The whole file.

    Args:
        study: what was read.
        verdicts: the pooled one first, where there is one, then one for each problem.
        parts: below them.
    """
    anchors = anchors_of(study)
    index = [("verdict", "Verdict"), *((part.anchor, part.title) for part in parts), ("runs", "Commands and versions")]
    links = "".join(f'<li><a href="#{anchor}">{escape(title)}</a></li>' for anchor, title in index)
    body = [
        _registration(study),
        f"<header><h1>{escape(study.title)}</h1></header>",
        _verdicts(study, verdicts),
        f'<nav aria-label="Index"><ol>{links}</ol></nav>',
        *(_section(part, anchors) for part in parts),
        _runs(study, anchors),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(study.title)}</title>\n<style>\n{STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n{''.join(block for block in body if block)}</main>\n</body>\n</html>\n"
    )


def anchors_of(study: Study) -> dict[str, tuple[str, str]]:
    """By run folder the id of its place in the page and its short name."""
    sources = [source for problem in study.problems for source in problem.sources]
    return {source.place: (f"run-{number}", f"r{number}") for number, source in enumerate(sources, 1)}


def _registration(study: Study) -> str:
    known = study.registration
    if known is None:
        return ""
    hashed = f"Pre-registration {known.hash} of {known.registered}"
    if not known.departures:
        return f'<p class="registration">{escape(hashed)}; no departure from it.</p>\n'
    items = "".join(f"<li>{escape(text)}</li>" for text in known.departures)
    count = len(known.departures)
    told = f"{count} departure{'' if count == 1 else 's'} from the pre-registration"
    return (
        f'<div class="registration departed"><p><strong>{told}</strong> ({escape(hashed)}):</p><ul>{items}</ul></div>\n'
    )


def _verdicts(study: Study, verdicts: Sequence[Verdict]) -> str:
    pooled = len(verdicts) > len(study.problems)
    first = [_verdict(verdicts[0], pooled)] if pooled or len(verdicts) == 1 else []
    blocks = [*first, *(_folded(one) for one in verdicts[len(first) :])]
    left = "".join(f'<p class="left-out">{escape(text)}</p>' for text in study.left_out)
    return f'<section id="verdict" aria-label="Verdict">{"".join(blocks)}{left}</section>\n'


def _verdict(one: Verdict, named: bool) -> str:
    about = f'<span class="about">{escape(one.about)}</span> ' if named else ""
    short = f'<p class="short">{about}{_mark(one)} {escape(one.short)}</p>'
    return f'<div class="verdict {one.outcome}">{short}{_facts(one)}</div>\n'


def _folded(one: Verdict) -> str:
    """One of several problems in a line, the rest behind a click."""
    much = f' <span class="much">{escape(one.number)}</span>' if one.number else ""
    line = f'<span class="about">{escape(one.about)}:</span> {_mark(one)} {escape(one.short)}{much}'
    return f'<details class="verdict {one.outcome}"><summary>{line}</summary>{_facts(one)}</details>\n'


def _mark(one: Verdict) -> str:
    return f'<span class="mark" aria-hidden="true">{_MARKS[one.outcome]}</span>'


def _facts(one: Verdict) -> str:
    facts = (("By how much", one.how_much), ("How sure", one.how_sure), ("At what cost", one.cost))
    items = "".join(f"<dt>{title}</dt><dd>{escape(text)}</dd>" for title, text in facts if text)
    more = f"<details><summary>In full</summary><p>{escape(one.full)}</p></details>" if one.full else ""
    return f"<dl>{items}</dl>{more}"


def _section(part: Section, anchors: Mapping[str, tuple[str, str]]) -> str:
    lead = f"<p>{escape(part.lead)}</p>\n" if part.lead else ""
    figures = "".join(map(_figure, part.pictures))
    tables = "".join(as_html(table, anchors) for table in part.tables)
    texts = "".join(f'<pre tabindex="0">{escape(text)}</pre>\n' for text in part.texts)
    words = "".join(
        f"<details><summary>What these numbers do and do not show</summary><p>{escape(text)}</p></details>\n"
        for text in part.words
    )
    return (
        f'<section id="{part.anchor}"><h2>{escape(part.title)}</h2>\n{lead}{figures}{tables}{words}{texts}</section>\n'
    )


def _figure(picture: Picture) -> str:
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>"
    return f'<figure id="figure-{picture.name}">\n{picture.svg}{caption}</figure>\n'


def _runs(study: Study, anchors: Mapping[str, tuple[str, str]]) -> str:
    """Where every number is from: folders, seeds, commands and versions."""
    sources = [source for problem in study.problems for source in problem.sources]
    items = "".join(_run(source, *anchors[source.place]) for source in sources)
    return (
        f'<section id="runs"><h2>Commands and versions</h2>\n<p>This report: <code>{escape(study.command)}</code></p>\n'
        f"<p>Every line of a table names the run folders that its numbers are from.</p>\n{items}</section>\n"
    )


def _run(source: Source, anchor: str, name: str) -> str:
    run, versions = source.run, source.versions or {}
    seeds = run.results["seeds"]
    judged = f"evaluation seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"evaluation seed {seeds[0]}"
    who = f"{run.agent}, seed {run.train_seeds.start}, control {run.control}, {judged}"
    told = ", ".join(f"{key} {versions[key]}" for key in _VERSIONS if versions.get(key) is not None)
    command = f'<pre tabindex="0">{escape(source.command.strip())}</pre>' if source.command.strip() else ""
    return (
        f'<div class="run" id="{anchor}"><p><strong>{name}</strong> <a href="{escape(quote(source.link))}">'
        f"{escape(textwrap.shorten(source.place, 200))}</a>: {escape(who)}</p>{command}"
        f'<p class="note">{escape(told)}</p></div>\n'
    )
