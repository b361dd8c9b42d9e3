"""Pages that are made from the code are whole: every name has its place, every option its meaning."""

from __future__ import annotations

import dataclasses
import fnmatch
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents import AGENTS, RULES
from agents.sb3.algorithms import ALGORITHMS
from docs.house import ROOT
from docs.site import docstrings, environments, experiments, generate, links, options, registries
from kd_env.config.environment import EnvConfig
from kd_env.config.influence import InfluenceConfig
from kd_env.config.learning_teacher import LearningTeacherConfig
from kd_env.config.optimizer import OptimizerConfig
from kd_env.config.student import StudentConfig
from kd_env.core.metrics import METRICS
from kd_env.data.tasks import TASKS
from kd_env.decisions.catalog import DECISIONS
from kd_env.decisions.sample_weighting.scores import SCORES
from kd_env.knowledge import TERMS
from kd_env.mdp.observations.layout import FEATURES
from kd_env.mdp.rewards import REWARDS

DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
MADE = generate.pages()
CONFIGS = (EnvConfig, StudentConfig, OptimizerConfig, InfluenceConfig, LearningTeacherConfig)


def named_in(text: str) -> set[str]:
    """What stands in the first column of the tables of a text, without links and code marks."""
    firsts = re.findall(r"^\| \[?`([^`]+)`", text, re.MULTILINE)
    return set(firsts)


def facts_of(page: str) -> list[str]:
    """What a page is filled with."""
    return re.findall(r"^<!-- facts: (.+) -->$", PAGES[page], re.MULTILINE)


@pytest.mark.parametrize(
    ("page", "facts", "names"),
    [
        ("terms.md", registries.terms, set(TERMS)),
        ("rules.md", registries.rules, set(RULES)),
        ("rewards.md", registries.rewards, set(REWARDS)),
        ("features.md", registries.features, set(FEATURES)),
        ("features.md", registries.scores, set(SCORES)),
        ("tasks.md", registries.tasks, set(TASKS)),
        ("tasks.md", registries.metrics, set(METRICS)),
    ],
)
def test_every_name_has_its_row(page: str, facts: Any, names: set[str]) -> None:
    assert facts.__name__ in facts_of(page)
    table = facts()
    assert named_in(table) == names
    rows = [line for line in table.splitlines() if line.startswith("| ") and "`" in line]
    assert all(re.match(r"\| [^|]+ \| [^|]", row) for row in rows), "a name without a meaning"


def test_agents_and_terms_have_pages_of_their_own() -> None:
    assert {place for place in MADE if place.startswith("agents/")} == {
        f"agents/{name}.md" for name in (*AGENTS, "sb3")
    }
    assert {place for place in MADE if place.startswith("terms/")} == {f"terms/{name}.md" for name in TERMS}
    assert {f"sb3/{name}" for name in ALGORITHMS} == named_in(MADE["agents/sb3.md"])
    for name, kind in AGENTS.items():
        assert {field.name for field in dataclasses.fields(kind.config_class)} <= named_in(MADE[f"agents/{name}.md"])


@pytest.mark.parametrize("name", [*TERMS])
def test_every_term_states_formula_source_and_needs(name: str) -> None:
    page = MADE[f"terms/{name}.md"]
    before = page.split("## Needs")[0]
    assert re.search(r"`[^`]*[=(^_][^`]*`", before), "no formula: write it into the docstring"
    assert re.search(r"## Source\n\n.*(19|20)\d\d", page), "no source: write it into the docstring"
    assert "It reads of the student" in page
    asked = set(re.findall(r"^\| `(\w+)` \| `", page, re.MULTILINE))
    parameters = inspect.signature(TERMS[name]).parameters.values()
    assert asked == {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


@pytest.mark.parametrize("kind", [*CONFIGS, *(agent.config_class for agent in AGENTS.values())])
def test_every_option_has_a_meaning(kind: type[Any]) -> None:
    docs = options.field_docs(kind)
    assert not [field.name for field in dataclasses.fields(kind) if not docs.get(field.name)]


def test_the_page_of_options_has_all_of_them() -> None:
    table = generate.filled(PAGES["options.md"])
    assert {field.name for kind in CONFIGS for field in dataclasses.fields(kind)} == named_in(table)
    for kind in CONFIGS[1:]:
        assert f"\n## {kind.__name__}\n" in table


@pytest.mark.parametrize("decision", [*environments.DECISIONS])
def test_every_environment_has_its_page(decision: str) -> None:
    page = generate.filled(PAGES[f"environments/{decision}.md"])
    assert environments.environment_id(decision) in page
    rows = page.split("`action_view` | space")[1].split("###")[0]
    assert {view for view in DECISIONS[decision].view_names()} <= named_in(rows)
    env = environments.made(decision)
    env.reset(seed=0)
    *_, info = env.step(env.action_space.sample())
    assert set(info) == named_in(page.split("### Info")[1].split("##")[0])
    changed = named_in(page.split("\n## Options")[1])
    assert DECISIONS[decision].options <= changed
    for heading in ("Description", "Action Space", "Observation Space", "Reward", "Example", "Version"):
        assert re.search(rf"^## {heading}", page, re.MULTILINE), heading


def test_every_experiment_is_told_of() -> None:
    text = generate.filled(PAGES["papers.md"])
    assert {f"experiment={name}" for name in experiments.names()} == named_in(text.split("## All experiments")[1])
    for name in experiments.names():
        assert len(experiments.about(name)) > 20 and "train_agent.py experiment" not in experiments.about(name), name
    assert not set(re.findall(r"`rule/(\w+)`", text)) - RULES.keys()
    assert not set(re.findall(r"experiment=(\w+)", text)) - {*experiments.names()}


def test_facts_that_there_are_not_are_refused() -> None:
    with pytest.raises(ValueError, match="there are facts of"):
        generate.filled("<!-- facts: nothing -->")
    asked = {line.split()[0] for page in PAGES for line in facts_of(page)}
    assert asked == set(generate.FACTS), "facts that no page asks for"


def test_the_navigation_names_every_page_once() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    entries = re.findall(r"[\w./*]+\.md", str(nav))
    for page in (*PAGES, *MADE, *links.OUTSIDE.values()):
        assert len([entry for entry in entries if fnmatch.fnmatch(page, entry)]) == 1, page
    assert all("*" in entry or entry in {*PAGES, *MADE, *links.OUTSIDE.values()} for entry in entries)


def test_links_are_those_of_the_site() -> None:
    text = "[a](../CONTRIBUTING.md) [b](results.md#x) [c](../configs/a.yaml) [d](tutorials/t.ipynb) `[e](f)` [g](#h)"
    assert links.mended(text, "docs/page.md", "page.md") == (
        "[a](project/contributing.md) [b](results.md#x) c [d](tutorials/t.md) `[e](f)` [g](#h)"
    )
    assert links.mended("![p](docs/house.png)", "CONTRIBUTING.md", "project/contributing.md") == "![p](../house.png)"
    assert links.mended("[r](https://a.b/c.md)", "docs/page.md", "page.md") == "[r](https://a.b/c.md)"


def test_docstrings_become_markdown() -> None:
    text = """Sums, see :class:`a.b.Thing` and :mod:`a.b`.

    ====  =======
    name  meaning
    ====  =======
    x     one ``|``
          two
    y     three
    ====  =======

    Args:
        low: least
            value.
        high: greatest ``x``.
    """
    found = docstrings.markdown(text)
    assert found.startswith("Sums, see `Thing` and `a.b`.")
    assert "| x | one `|` two |\n| y | three |" in found
    assert docstrings.arguments(text) == {"low": "least value.", "high": "greatest `x`."}
    assert docstrings.prose(text).endswith("| y | three |") and docstrings.summary(text).startswith("Sums")
    assert docstrings.sources("Made (Ba and Caruana, NIPS 2014), as in Sun et al., EMNLP 2019, eq. 7.") == [
        "Ba and Caruana, NIPS 2014",
        "Sun et al., EMNLP 2019",
    ]


def test_nothing_is_fetched_when_a_page_is_read() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in config and "http" not in config
    assert not re.search(r"@import|url\(", (DOCS / "site.css").read_text(encoding="utf-8"))
    pictures = [path for path in DOCS.rglob("*.svg")]
    assert pictures and not [path for path in pictures if "href" in Path(path).read_text(encoding="utf-8")]
