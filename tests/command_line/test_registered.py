"""Studies that are fixed in a file: what it may say, the cells that follow from it, and what the record tells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.jobs.estimates.command import estimate_job
from cli.jobs.studies import record as records
from cli.jobs.studies.grid import Planned, kinds_of, plan_grid, problems_of, stages
from cli.jobs.studies.outcome import hypotheses_of
from cli.jobs.studies.registration import Registration, checked, read_registration
from cli.jobs.study import study
from cli.runs import folder as runs
from cli.settings.presets import studies
from cli.settings.read import agent_label
from tests.here import Here, undrawn_figures

OPENED = "cli.jobs.studies.registered.opened"
SOURCE = "rows-toy-noisy_labels"
FIXED: dict[str, Any] = {
    "name": "fixed",
    "question": "Do rows help?",
    "hypotheses": [{"name": "H1", "says": "they do", "agent": "row_reinforce", "block": "rows"}],
    "primary": "calibrated gap closed on dev",
    "units": "trainings and seeds, crossed",
    "smallest_difference": 0.03,
    "pilot": {},
    "stopping": "All cells.",
    "trainings": 1,
    "seeds": 2,
    "options": ["env.budget=2", "num_envs=1", "total_timesteps=2", "checkpoint_every=0", "env.evaluation_rows=16"],
    "blocks": [
        {
            "name": "rows",
            "tasks": ["toy", "toy_pair"],
            "regimes": ["noisy_labels"],
            "options": ["env=sample_weighting"],
            "agents": ["row_reinforce"],
            "rules": ["uniform"],
            "controls": ["none"],
        }
    ],
}
TRANSFER = {"agent": "row_reinforce", "problems": [SOURCE, "rows-toy_pair-noisy_labels"]}


def registration(**changes: Any) -> Registration:
    return Registration(checked({**FIXED, **changes}, "fixed.yaml"), "fixed.yaml")


def block(**changes: Any) -> list[dict[str, Any]]:
    return [{**FIXED["blocks"][0], **changes}]


def written(folder: Path, **changes: Any) -> str:
    path = folder / "fixed.yaml"
    path.write_text(yaml.safe_dump({**FIXED, **changes}))
    return f"study={path}"


def planned(folder: Path, *given: str, **changes: Any) -> list[Planned]:
    return plan_grid(registration(**changes), folder, given, 1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three cells, of which the last begins with the policy of the first."""
    place = tmp_path_factory.mktemp("registered")
    transferred = {**FIXED["blocks"][0], "tasks": ["toy_pair"], "name": "other"}
    entry = {"name": "row_reinforce", "label": "moved", "from": {"problem": SOURCE, "agent": "row_reinforce"}}
    blocks = [{**FIXED["blocks"][0], "tasks": ["toy"]}, {**transferred, "agents": [{**entry, "steps": 0}]}]
    hypotheses = [*FIXED["hypotheses"], {**FIXED["hypotheses"][0], "name": "H2", "agent": "moved", "block": "other"}]
    words = [written(place, blocks=blocks, hypotheses=hypotheses), f"runs_dir={place}", "jobs=2", "progress=false"]
    with pytest.MonkeyPatch.context() as patch, undrawn_figures():
        patch.setattr(OPENED, lambda *_: Here())
        folder = study([*words, f"cache_dir={place}/cache"], "kd-env study ...")
    (place / "words.json").write_text(json.dumps([*words, f"cache_dir={place}/cache"]))
    return folder


def test_a_study_is_registered_before_its_cells_and_says_what_became_of_its_hypotheses(finished: Path) -> None:
    record = records.read_record(finished)
    assert record is not None
    assert (record["name"], record["departures"], len(record["hash"])) == ("fixed", [], 64)
    assert [problem["folder"] for problem in record["problems"]] == [SOURCE, "other-toy_pair-noisy_labels"]
    assert record["registration"]["smallest_difference"] == 0.03
    text = (finished / "study.md").read_text()
    assert text.startswith("None of the 2 hypotheses holds")
    assert "| **H1** row_reinforce | all 1, equal weights | best_rule |" in text
    assert "**H2** moved" in text and record["hash"][:12] in text
    numbers = json.loads((finished / "hypotheses.json").read_text())["hypotheses"]
    assert [one["holds"] for one in numbers] == [False, False]
    assert numbers[0]["parts"][0]["above"].startswith("uniform")


def test_a_policy_of_another_problem_is_judged_as_it_is(finished: Path) -> None:
    (source,) = (finished / SOURCE).glob("*-seed0")
    (moved,) = (finished / "other-toy_pair-noisy_labels").glob("*moved-seed0")
    origin = json.loads((moved / "origin.json").read_text())
    assert origin["run"] == str(source.resolve())
    networks = "policy/networks.safetensors"
    assert (moved / networks).read_bytes() == (source / networks).read_bytes()


def test_a_deleted_cell_comes_back_with_the_same_bits(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPENED, lambda *_: Here(started=1))
    (cell,) = (finished / SOURCE).glob("*-seed0")
    before = json.loads((cell / "results.json").read_text())["policies"]
    kept = {path: path.stat().st_mtime_ns for path in finished.glob("other-*/*/results.json")}
    shutil.rmtree(cell)
    study(json.loads((finished.parent / "words.json").read_text()), "kd-env study ...")
    assert json.loads((cell / "results.json").read_text())["policies"] == before
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_file_that_was_changed_after_the_first_cell_is_told_first(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fixed"
    shutil.copytree(finished, folder)
    fewer = planned(folder, blocks=block(tasks=["toy"]))
    changed = registration(blocks=block(tasks=["toy"]), stopping="When it looks good.")
    record = records.registered(folder, changed, fewer)
    (words,) = record["departures"]
    assert "changed on" in words and "1 cells had begun: " in words and "stopping" in words and "block other" in words
    assert record["hash"] != changed.hash == record["changes"][0]["hash"]
    again = records.registered(folder, changed, fewer)
    assert again["changes"] == record["changes"], "told once"


def test_before_its_first_cell_a_file_may_change(tmp_path: Path) -> None:
    first = planned(tmp_path, blocks=block(tasks=["toy"]))
    records.registered(tmp_path, registration(), first)
    record = records.registered(tmp_path, registration(stopping="Later."), first)
    assert record["changes"] == [] and record["hash"] == registration(stopping="Later.").hash
    assert record["departures"] == ["1 of 1 cells have no results yet: nothing below is the study's end."]


def test_the_hash_is_of_what_the_file_says(tmp_path: Path) -> None:
    text = yaml.safe_dump(FIXED)
    (tmp_path / "a.yaml").write_text(text)
    (tmp_path / "b.yaml").write_text(f"# A comment\n\n{text}")
    one, two = (read_registration(str(tmp_path / name)) for name in ("a.yaml", "b.yaml"))
    assert one.hash == two.hash == registration().hash != registration(trainings=2).hash


def test_cells_are_blocks_by_tasks_by_regimes_by_students(tmp_path: Path) -> None:
    blocks = block(regimes=["noisy_labels", "unreliable_teacher"], students=["toy_small", "toy_two"], tasks=["toy"])
    names = [problem.name for problem in problems_of(registration(blocks=blocks))]
    assert names == [
        f"rows-toy-{r}-{s}" for r in ("noisy_labels", "unreliable_teacher") for s in ("toy_small", "toy_two")
    ]
    (one,) = planned(tmp_path, blocks=block(tasks=["toy"]), trainings=2)
    c = one.trainings[1].settings.resolved
    assert (c["seed"], c["task"]["label_noise"], c["evaluation"]["seeds"]) == (100, 0.3, 2)
    assert one.trainings[1].folder == tmp_path / SOURCE / "toy-noisy_labels-row_reinforce-seed100"
    assert one.trainings[1].settings.rules == () and one.trainings[0].settings.rules != ()


def test_transfer_waits_for_what_it_begins_with(tmp_path: Path) -> None:
    found = planned(tmp_path, transfer=[{**TRANSFER, "continued": True}])
    first, second = stages(found)
    assert {training.settings.agent.label for training in first} == {"row_reinforce"}
    labels = {training.settings.agent.label: training.settings.resolved for training in second}
    assert {*labels} == {
        f"row_reinforce_from_{name}{ending}" for name in TRANSFER["problems"] for ending in ("", "_continued")
    }
    assert labels[f"row_reinforce_from_{SOURCE}"]["total_timesteps"] == 0
    assert labels[f"row_reinforce_from_{SOURCE}_continued"]["total_timesteps"] == 2
    source = tmp_path / SOURCE / "toy-noisy_labels-row_reinforce-seed0"
    assert labels[f"row_reinforce_from_{SOURCE}"]["agent"]["from"] == str(source)


def test_a_study_below_the_working_folder_finds_what_its_cells_begin_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = stages(planned(Path("runs/fixed"), transfer=[TRANSFER]))
    sources = {training.settings.resolved["agent"]["from"] for training in second}
    assert sources and sources <= {str(training.folder) for training in first}


def test_controls_are_there_by_default(tmp_path: Path) -> None:
    values = {key: value for key, value in FIXED["blocks"][0].items() if key != "controls"}
    (one,) = planned(tmp_path, blocks=[{**values, "tasks": ["toy"]}])
    controls = [training.settings.resolved["control"] for training in one.trainings]
    assert controls == ["none", "shuffled_reward", "untrained"]


def test_options_of_files_are_not_for_embedded_tasks(tmp_path: Path) -> None:
    (one,) = planned(tmp_path, "teacher.name_or_path=encoder", "progress=false", blocks=block(tasks=["toy"]))
    c = one.trainings[0].settings.resolved
    assert (c["teacher"]["name_or_path"], c["progress"]) == (None, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hypothesis": []}, r"Unknown key 'hypothesis'.*hypotheses"),
        ({"stopping": None}, "stopping=None must be of the kind str"),
        ({"trainings": 0}, "trainings=0"),
        ({"seeds": True}, "seeds=True"),
        ({"blocks": []}, "at least one"),
        ({"blocks": block() * 2}, "a name of its own"),
        ({"blocks": block(tasks=["toi"])}, "Unknown task 'toi'.*toy"),
        ({"blocks": block(regimes=["noisy"])}, "Unknown regime 'noisy'.*noisy_labels"),
        ({"blocks": block(students=["small"])}, "Unknown student 'small'"),
        ({"blocks": block(options=["budget"])}, "list of key=value"),
        ({"blocks": block(by_task={"rte": []})}, "by_task names"),
        ({"blocks": block(regimes=["tight_budget"])}, r"env\.budget=2 would take back what regime=tight_budget says"),
        ({"hypotheses": [{**FIXED["hypotheses"][0], "block": "row"}]}, "Unknown block 'row'.*rows"),
        ({"hypotheses": [{"name": "H"}]}, "lacks says, agent, block"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registration(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transfer": [{**TRANSFER, "problems": ["rows-toi"]}]}, "Unknown problem 'rows-toi'"),
        ({"transfer": [{**TRANSFER, "agent": "ppo"}]}, "Unknown agent of rows-toy-noisy_labels: 'ppo'"),
        ({"blocks": block(agents=["row_reinforced"])}, "rows-toy-noisy_labels: .*row_reinforced"),
        ({"blocks": block(options=["env=sample_weighting", "env.budgets=3"])}, "env.budgets"),
        ({"blocks": block(agents=[{"name": "row_reinforce", "from": "runs/a"}])}, "problem: ..., agent: ..."),
    ],
)
def test_what_a_file_names_must_exist(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        planned(tmp_path, **changes)


def test_a_lack_of_a_key_is_said_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"lacks stopping\. A study says before its first cell"):
        checked({key: value for key, value in FIXED.items() if key != "stopping"}, "fixed.yaml")


@pytest.mark.parametrize("word", ["env.budget=8", "trainings=3", "agents=[actor_critic]", "seed=1"])
def test_numbers_are_for_the_file(word: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{word.split('=', maxsplit=1)[0]}=... has no place beside study="):
        study([written(tmp_path), word, f"runs_dir={tmp_path}"], "")
    assert not (tmp_path / "fixed").exists()


def test_an_unknown_study_is_named_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"'glue_smal'.*{studies()[0]}"):
        read_registration("glue_smal")
    with pytest.raises(ValueError, match="no such file"):
        read_registration(str(tmp_path / "a.yaml"))
    (tmp_path / "b.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="is no YAML"):
        read_registration(str(tmp_path / "b.yaml"))


def test_the_folder_of_a_run_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "fixed").mkdir()
    (tmp_path / "fixed" / runs.CONFIG).write_text("seed: 0\n")
    with pytest.raises(ValueError, match="is a run folder"):
        study([written(tmp_path), f"runs_dir={tmp_path}"], "")


def test_an_estimate_counts_what_it_cannot_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = block(tasks=["rte"], options=["env=sample_weighting", "task.data_dir=nowhere"])
    words = [written(tmp_path, blocks=missing, trainings=3), f"runs_dir={tmp_path}", "jobs=2"]
    estimate_job(["study", *words], "")
    first, last = capsys.readouterr().out.strip().splitlines()
    assert first.startswith("rows-rte-noisy_labels: 3 cells, 6 student updates of trainings; no time: study=")
    assert (
        last
        == "fixed: 1 problems, 3 cells, 6 student updates of trainings; no time can be said for 1 problems, 2 at a time"
    )
    assert not (tmp_path / "fixed").exists()


@pytest.mark.parametrize("name", studies())
def test_shipped_studies_compose(name: str, tmp_path: Path) -> None:
    """Every option and name of theirs exists, whatever files are here, and hypotheses are about what is trained.

    Blocks are cut to the tasks with options of their own and one other, and to one student; presets have names anyway.
    """
    whole = read_registration(name)
    few = [
        {**each, "tasks": list({*each["by_task"], each["tasks"][0]}), "students": each["students"][:1]}
        for each in whole.blocks
    ]
    problems = {problem.name for problem in problems_of(whole)}
    kept = [one for one in whole.values.get("transfer", []) if problems.issuperset(one["problems"])]
    assert kept == whole.values.get("transfer", [])
    registration = Registration({**whole.values, "blocks": few, "transfer": []}, name)
    found = kinds_of(registration, tmp_path, ())
    record = {"registration": registration.values, "problems": [_recorded(*one) for one in found]}
    transferred = [one.agent for one in hypotheses_of(record) if not one.problems]
    assert all("_from_" in agent for agent in transferred) and len(transferred) < len(hypotheses_of(record))
    plain = {block["name"] for block in whole.values["blocks"] if "controls" not in block}
    controls = [{kind["control"] for _, kind in kinds} for problem, kinds in found if problem.block in plain]
    assert controls and all("shuffled_reward" in one for one in controls)


def _recorded(problem: Any, kinds: Any) -> dict[str, Any]:
    agents = [agent_label(resolved["agent"]) for _, resolved in kinds]
    return {"folder": problem.name, "block": problem.block, "agents": agents}
