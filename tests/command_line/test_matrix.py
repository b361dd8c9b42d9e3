"""Which agent acts in which environment: by probes, and as docs/agents.md says."""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from agents import RULES, make_agent
from agents.catalog import AGENTS
from agents.sb3.algorithms import ALGORITHMS
from cli.settings.kinds.base import PolicySpec, Settings
from cli.settings.kinds.learning import check_learns
from cli.settings.kinds.token_probe import TokenProbe
from cli.settings.probe import ProbeEnv
from kd_env.config.environment import EnvConfig
from kd_env.decisions.catalog import DECISIONS, check_decision, in_view
from kd_env.decisions.options import env_config
from kd_env.decisions.tutor_token.decision import TutorToken

PAGE = Path(__file__).resolve().parents[2] / "docs" / "agents.md"
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "knowledge_selection": {},
    "teacher_weighting": {"decision": "teacher_weighting"},
    "teacher_weighting, weighting=sample": {
        **{"decision": "teacher_weighting", "weighting": "sample", "updates_per_step": 1},
    },
    "sample_weighting": {"decision": "sample_weighting", "weighting": "sample", "updates_per_step": 1},
    "divergence_shaping": {"decision": "divergence_shaping"},
    "divergence_shaping, weighting=sample": {
        **{"decision": "divergence_shaping", "weighting": "sample", "updates_per_step": 1},
    },
}
NAMES = (*sorted(AGENTS), *(f"sb3/{name}" for name in ALGORITHMS))
REMEDY = re.compile(
    r"make (the|an) env|make a kd_env|make it with|use |set |choose |Valid: |possible: |give |add ", re.IGNORECASE
)


@cache
def probes(env: str) -> dict[str, Any]:
    """One probe for every view, and for tokens also those that read by name."""
    if env == "tutor_token":
        found: dict[str, Any] = {}
        for view in TutorToken.view_names():
            for observation in ("flat", "dict"):
                sizes = {"num_candidates": 4, "slots": 2}
                tokens = env_config(decision="tutor_token", action_view=view, observation=observation, **sizes)
                found[f"{view}/{observation}"] = TokenProbe(tokens, 2)
        return found
    options = ENVIRONMENTS[env]
    config = env_config(**options)
    # The knowledge selector's preset adds what it reads.
    wider = dataclasses.replace(config, features=(*config.features, "teacher_cls", "student_cls"))
    names = ("a", "b") if config.decision == "teacher_weighting" else ("a",)
    viewed = {view: in_view(wider, view) for view in DECISIONS[config.decision].view_names()}
    return {view: ProbeEnv(own, 2, names) for view, own in viewed.items() if _exists(own)}


def _exists(config: EnvConfig) -> bool:
    """Whether there is such an environment; one of single rows has no discrete view."""
    try:
        check_decision(config)
    except ValueError:
        return False
    return True


def views_of(name: str, env: str, **options: Any) -> tuple[list[str], list[str]]:
    """Views in which an agent can be made, and what it is refused with in the others."""
    able, refused = [], []
    for view, probe in probes(env).items():
        try:
            make_agent(name, probe, seed=0, **options)
        except ValueError as error:
            refused.append(str(error))
        else:
            able.append(view)
    return list(dict.fromkeys(view.split("/")[0] for view in able)), refused


def learns_jointly(name: str) -> bool:
    """Whether an agent can learn beside the one student of ``env.protocol=joint``."""
    resolved = {"env": {"protocol": "joint", "budget": 80}, "control": "none", "seed": 0, "total_timesteps": None}
    [view, *_], _ = views_of(name, "tutor_token")
    probe = next(one for key, one in probes("tutor_token").items() if key.startswith(view) and _acts(name, one))
    settings = Settings(
        "tokens", resolved, env_config(decision="tutor_token"), (), PolicySpec(name, {}, name), None, Path(), (0,)
    )
    try:
        check_learns(settings, probe)
    except ValueError as error:
        assert "env.protocol=frozen" in str(error), error
        return False
    return True


def _acts(name: str, probe: Any) -> bool:
    try:
        make_agent(name, probe, seed=0)
    except ValueError:
        return False
    return True


def table() -> list[str]:
    columns = [*ENVIRONMENTS, "tutor_token"]
    head = ["agent", *columns, "tutor_token, protocol=joint"]
    lines = [head, ["---"] * len(head)]
    for name in NAMES:
        cells = [", ".join(views_of(name, env)[0]) or "-" for env in columns]
        joint = "-" if cells[-1] == "-" else "yes" if learns_jointly(name) else "-"
        lines.append([f"`{name}`", *cells, joint])
    return [f"| {' | '.join(cells)} |" for cells in lines]


def test_the_table_of_the_docs_is_what_probes_say() -> None:
    """After a change the new table is printed by the failure: it takes the place of the one in docs/agents.md."""
    expected, page = "\n".join(table()), PAGE.read_text(encoding="utf-8")
    assert expected in page, f"docs/agents.md should hold:\n{expected}"


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_act_is_told_what_works(name: str) -> None:
    for env in (*ENVIRONMENTS, "tutor_token"):
        for message in views_of(name, env)[1]:
            assert REMEDY.search(message), message


def test_rules_act_where_their_decision_is() -> None:
    """Each in one kind of environment, as docs/agents.md lists them; elsewhere it says which."""
    decisions = {env: "tutor_token" if env == "tutor_token" else env.split(",")[0] for env in _columns()}
    for name, rule in RULES.items():
        for env, decision in decisions.items():
            for message in views_of(name, env)[1] if rule.decision != decision else ():
                words = f"make an env of {rule.decision!r}"
                assert words in message or message.startswith(f"The rule {name!r} needs the option"), message
    section = PAGE.read_text(encoding="utf-8").split("## Rules")[1]
    listed = dict(re.findall(r"^- `env=(\w+)`: (.*)$", section, flags=re.MULTILINE))
    assert {env: set(re.findall(r"`(\w+)`", text)) for env, text in listed.items()} == {
        env: {name for name, rule in RULES.items() if rule.decision == decision}
        for env, decision in {**{d: d for d in DECISIONS}, "tutor_token": "tutor_token"}.items()
    }


def _columns() -> tuple[str, ...]:
    return (*ENVIRONMENTS, "tutor_token")
