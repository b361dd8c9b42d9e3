"""The report as an HTML file: what is in it, for results whose numbers are chosen by hand, and in a real browser."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.jobs.compare import find_runs, read_runs
from cli.jobs.pages.command import report
from cli.jobs.pages.power import power
from cli.runs import folder as run_files
from cli.runs import watch
from cli.runs.config import to_yaml
from cli.runs.loggers.base import Shown
from cli.runs.loggers.catalog import Loggers
from kd_env.evaluation.comparing.hypotheses import values_of
from kd_env.evaluation.judging.results import SELECTION
from kd_env.evaluation.pages.pooling import BEST
from kd_env.evaluation.pages.tables import Table, as_csv, as_html, as_latex, as_markdown
from kd_env.evaluation.reports import plots
from kd_env.evaluation.statistics.intervals import t_interval
from kd_env.evaluation.statistics.power import planned_difference

NASTY = 'a<b>&"c" $x_1$ |%'
STEPS = 12


def row(policy: str, gaps: Sequence[float], *, learned: bool = False, seeds: int = 30) -> dict[str, Any]:
    values = np.resize(gaps, seeds)
    split = {
        "metrics": {"accuracy": (0.5 + values / 2).tolist()},
        "loss": (1 - values).tolist(),
        "gap_closed": values.tolist(),
        "raw_loss": (1.1 - values).tolist(),
        "raw_gap_closed": (values - 0.1).tolist(),
        "calibration_error": (0.2 - values / 10).tolist(),
        "reliability": {
            "rows": [0] * 8 + [1, 199, 100, 0, 100, 400, 200],
            "confidence": [0] * 8 + [0.58, 120.0, 70.0, 0, 85.0, 360.0, 199.0],
            "right": [0] * 8 + [1, 110, 60, 0, 90, 380, 190],
        },
    }
    weights = {"hard_label": values.tolist(), "soft_label": (1 - values).tolist()}
    course = [[step / STEPS if learned else 1.0, 1.0] for step in range(STEPS)]
    return {
        "policy": policy,
        "learned": learned,
        "extra_labels": False,
        "metrics": {"selection": {"accuracy": {}}, "validation": {"accuracy": {}}},
        "diverged": 0,
        "seeds": {
            "splits": {"selection": split, "validation": split},
            "action_view": "native",
            "mean_weights": weights,
            "chosen": weights,
            "weights_over_time": course,
            "update_scale_over_time": [1.0] * STEPS,
            "traces": {"weight of right rows": [0.5] * STEPS},
        },
    }


def run(
    place: Path, seed: int, *rows: dict[str, Any], seeds: int = 30, seconds: float | None = 5.0, **more: Any
) -> Path:
    """A run folder as far as reports read it."""
    values = {
        "task": {"name": "toy", "label_noise": 0.4},
        "teacher": {"path": None},
        "student": {"hidden_size": 32},
        "env": {"id": "kd_env/KnowledgeSelection-v0", "budget": 24, "updates_per_step": 2},
        "agent": {"name": "ac", "options": {}},
        "evaluation": {"seeds": seeds, "first_seed": 10000, "rules": []},
        "control": "none",
        "seed": seed,
        "num_envs": 16,
        **more,
    }
    results = {
        "facts": {"task": values["task"]["name"], "saw_feedback": "no", "label_noise": 0.4, "gap": "calibrated"},
        "seeds": list(range(10000, 10000 + seeds)),
        "dev_splits": ["validation"],
        "term_names": ["hard_label", "soft_label"],
        "measure": "gap_closed",
        "teacher": {},
        "policies": list(rows),
        "appendix": "- `the <mask> film`\n",
    }
    (place / run_files.LOGS).mkdir(parents=True)
    (place / run_files.CONFIG).write_text(to_yaml(values))
    (place / run_files.RESULTS).write_text(json.dumps(results))
    (place / run_files.COMMAND).write_text(f"kd-env train seed={seed} name='<run>'\n")
    (place / run_files.VERSIONS).write_text(json.dumps({"kd-env": "0.1.0", "torch": "2.6", "threads": 1}))
    timed = {} if seconds is None else {"seconds": seconds}
    points = [{"timesteps": 80.0 * i, "gap_closed": 0.1 * i + seed / 1e4, **timed} for i in (1, 2, 3)]
    (place / run_files.LOGS / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    return place


def study(folder: Path, trainings: int = 5, **changes: Any) -> Path:
    """Trainings of one agent that is ahead of two rules, which the first run judged."""
    seeds = changes.get("seeds", 30)
    for index in range(trainings):
        gaps = [0.6 + 0.01 * index, 0.62, 0.58]
        rows = [row(NASTY, gaps, learned=True, seeds=seeds)]
        if index == 0:
            rows += [row("all", [0.3, 0.32, 0.31], seeds=seeds), row("soft_label_only", [0.4, 0.42, 0.4], seeds=seeds)]
        run(folder / f"ac-{index}", 100 * index, *rows, **{"agent": {"name": NASTY, "options": {}}, **changes})
    return folder


class Page(HTMLParser):
    """Ids, links, tags that are open at the end, and the text."""

    VOID = frozenset({"meta", "link", "br", "path", "use", "image", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.links, self.tags, self.open, self.words = list[str](), list[str](), list[str](), list[str](), ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.ids += [str(values["id"])] if "id" in values else []
        self.links += [str(values[key]) for key in ("href", "src", "xlink:href") if values.get(key)]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += "" if self.open[-1:] == ["style"] else data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a report in its folder; one run is half-written."""
    folder = study(tmp_path_factory.mktemp("runs") / "small")
    half = run(folder / "half", 900, row(NASTY, [0.5], learned=True))
    (half / run_files.RESULTS).unlink()
    report([str(folder)], "kd-env report <small>")
    return folder


def test_the_page_says_who_wins_first_and_everything_is_in_it(made: Path) -> None:
    text = (made / "report.html").read_text()
    page = Page(text)
    assert not page.open and len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert all(link.startswith(("#", "data:", "ac-", "p")) for link in page.links)  # nothing from elsewhere
    assert "script" not in page.tags and "@import" not in text and "@font-face" not in text
    short = f"{NASTY} beats every rule."
    assert page.words.index(short) < page.words.index("By how much") < page.words.index("Differences")
    for part in (
        "the interval excludes 0 (5 trainings x 30 seeds)",
        f"{NASTY}: 5 trainings, each 480 student updates and 5 s; one student takes 24 updates",  # 240 steps
        "half has no results.json and is left out",
        "kd-env train seed=400 name='<run>'",
        "kd-env report <small>",
        "torch 2.6",
        "the <mask> film",
    ):
        assert part in page.words, part
    figures = sorted(path.stem for path in (made / "figures").glob("*.png"))
    names = ["calibration", "cost", "course", "differences", "learning_curves", "policies", "profiles"]
    names += ["reliability", "traces"]
    assert set(names) <= set(figures) == {path.stem for path in (made / "figures").glob("*.svg")}
    assert {f"figure-{name}" for name in figures} == {name for name in page.ids if name.startswith("figure-")}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (made / "figures").glob("*.png"))


def test_every_number_can_be_traced_to_run_folders(made: Path) -> None:
    tables = list((made / "tables").glob("*.csv"))
    assert {path.stem for path in tables} >= {"policies", "differences", "cost", "chosen", "calibration"}
    for path in tables:
        lines = list(csv.DictReader(io.StringIO(path.read_text())))
        for line in lines:
            places = line["runs"].split(";")
            assert places and all((Path(place) / run_files.RESULTS).is_file() for place in places), path
        assert path.with_suffix(".md").is_file() and path.with_suffix(".tex").is_file()
    policies = csv.DictReader(io.StringIO((made / "tables/policies.csv").read_text()))
    [agent] = [line for line in policies if line["policy"].endswith("*")]
    assert float(agent["calibrated gap closed"]) == pytest.approx(
        np.mean([[0.6 + 0.01 * i, 0.62, 0.58] for i in range(5)])
    )
    assert float(agent["calibrated gap closed low"]) < 0.61 and len(agent["runs"].split(";")) == 5


def test_a_reliability_diagram_adds_up_the_students_of_all_trainings(made: Path) -> None:
    lines = list(csv.DictReader(io.StringIO((made / "tables/reliability.csv").read_text())))
    bins = {line["bin of confidence"]: line for line in lines if line["policy"] == NASTY}
    assert len(bins) == 6 and float(bins["8/15 to 9/15"]["share of rows"]) == pytest.approx(0.001)
    one = bins["9/15 to 10/15"]
    assert float(one["confidence"]) == pytest.approx(120 / 199) and float(one["accuracy"]) == pytest.approx(110 / 199)
    assert float(one["share of rows"]) == pytest.approx(0.199) and len(one["runs"].split(";")) == 5  # trainings


def test_the_same_runs_give_the_same_bytes(made: Path, tmp_path: Path) -> None:
    report([str(made), f"out={tmp_path / 'again'}"], "kd-env report <small>")
    for path in [*made.glob("figures/*"), *made.glob("tables/*")]:
        assert (tmp_path / "again" / path.relative_to(made)).read_bytes() == path.read_bytes(), path
    first, second = ((place / "report.html").read_text() for place in (made, tmp_path / "again"))
    links = re.compile(r'<a href="[^"]*ac-\d"')
    assert links.sub("", first) == links.sub("", second)
    with pytest.raises(ValueError, match=r"report\.html exists; replace the report with overwrite=true"):
        report([str(made)], "")


def test_one_seed_works_and_has_no_interval(tmp_path: Path) -> None:
    folder = study(tmp_path / "one", 1, seeds=1, seconds=None)
    page = Page(report([str(folder)], "").read_text())
    assert "One student says nothing about the spread: no interval, and no winner." in page.words
    assert "No interval can be given" in page.words and "not recorded" in page.words


def test_rules_alone_are_a_report(tmp_path: Path) -> None:
    place = run(tmp_path / "rule", 0, row("all", [0.3, 0.31]), row("soft_label_only", [0.5]))
    page = Page(report([str(place), f"out={tmp_path / 'out'}"], "").read_text())
    assert "Rules alone: no agent was trained here." in page.words and "The best is soft_label_only" in page.words


def grid(folder: Path, **changes: Any) -> Path:
    study(folder / "toy-clean")
    study(folder / "toy-noisy", task={"name": "toy", "label_noise": 0.1})
    return recorded(folder, "toy-clean", "toy-noisy", "late", **changes)


def recorded(folder: Path, *names: str, **changes: Any) -> Path:
    """A folder of problems with the record of a grid study."""
    problems = [{"folder": name, "block": "b", "agents": [NASTY], "transfers": []} for name in names]
    values = {"name": "grid", "hash": "abc123", "registered": "2026-01-01", "problems": problems, "departures": []}
    values["registration"] = {"hypotheses": []}
    (folder / "study.json").write_text(json.dumps({**values, **changes}))
    return folder


def test_a_grid_says_its_departures_first_and_keeps_problems_apart(tmp_path: Path) -> None:
    folder = grid(tmp_path / "grid", departures=["trainings: 5 in place of <10>"])
    page = Page(report([str(folder)], "").read_text())
    words = page.words.split("grid", 1)[1]  # after the title of the window
    assert words.strip().startswith("1 departure from the pre-registration (Pre-registration abc123 of 2026-01-01)")
    assert words.index("trainings: 5 in place of <10>") < words.index("toy-clean") < words.index("toy-noisy")
    assert "late has no results yet and is left out: go on with the command of the study." in words
    assert f"Over all problems {NASTY} is ahead of the best rules." in words  # 0.61 beside 0.41
    assert "2 problems x 5 trainings x 30 seeds" in words and "All 10 trainings took 4,800 student updates" in words
    pooled = list(csv.DictReader(io.StringIO((folder / "tables/pooled.csv").read_text())))
    assert [line["first - second"].split(" - ")[-1] for line in pooled] == [BEST, "all", "soft_label_only"]
    mean = np.mean([[0.6 + 0.01 * i, 0.62, 0.58] for i in range(5)]) - np.mean([0.4, 0.42, 0.4])
    assert float(pooled[0]["pooled difference"]) == pytest.approx(mean) and len(pooled[0]["runs"].split(";")) == 10
    chances = csv.DictReader(io.StringIO((folder / "tables/improvement.csv").read_text()))
    assert {float(line["probability of improvement"]) for line in chances} == {1.0}
    assert (folder / "tables/p2-policies.csv").is_file()
    with pytest.raises(ValueError, match=r"toy-noisy/ac-0 cannot be compared: task\.label_noise is 0\.4 in the first"):
        report([str(folder / "toy-clean"), str(folder / "toy-noisy"), f"out={tmp_path / 'mixed'}"], "")
    values = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**values, "problems": values["problems"][1:2], "departures": []}))
    page = Page(report([str(folder), f"out={tmp_path / 'kept'}"], "").read_text())
    assert "Pre-registration abc123 of 2026-01-01; no departure from it." in page.words


@pytest.mark.parametrize(
    ("measures", "apart"),
    [
        (("gap_closed", "gap_closed"), "no agent was judged on all"),
        (("gap_closed", "loss"), "some are judged by their gap and others by their loss"),
    ],
)
def test_problems_that_cannot_be_put_together_are_shown_each_by_itself(
    measures: tuple[str, str], apart: str, tmp_path: Path
) -> None:
    folder = tmp_path / "grid"
    for name, measure in zip(("one", "two"), measures, strict=True):
        agent, rule = f"agent of {name}", f"rule of {name}"
        for index in range(5):
            rows = [row(agent, [0.6 + 0.01 * index, 0.58], learned=True), *([row(rule, [0.4, 0.5])] * (index == 0))]
            place = run(folder / name / f"ac-{index}", 100 * index, *rows, agent={"name": agent, "options": {}})
            results = json.loads((place / run_files.RESULTS).read_text())
            (place / run_files.RESULTS).write_text(json.dumps({**results, "measure": measure}))
    words = Page(report([str(recorded(folder, "one", "two"))], "").read_text()).words
    assert words.count(f"Each problem by itself: {apart}.") == 2
    for place, name in ((1, "one"), (2, "two")):
        assert (folder / f"figures/p{place}-profiles.svg").is_file()
        chances = list(csv.DictReader(io.StringIO((folder / f"tables/p{place}-improvement.csv").read_text())))
        assert [line["pair"] for line in chances] == [f"agent of {name} better than rule of {name}"]
    assert not (folder / "tables/improvement.csv").exists()


def test_a_registered_study_begins_with_its_hypotheses_and_shows_its_transfer(tmp_path: Path) -> None:
    asked = {
        "name": "H1",
        "says": "it is <above>",
        "agent": NASTY,
        "block": "b",
        "problems": ["toy-clean", "toy-noisy"],
    }
    transfers = [{"agent": NASTY, "source": "toy-clean", "label": NASTY, "continued": False}]
    problems = [
        {"folder": name, "block": "b", "agents": [NASTY], "transfers": each}
        for name, each in (("toy-clean", []), ("toy-noisy", transfers))
    ]
    folder = grid(tmp_path / "grid", registration={"hypotheses": [asked]}, problems=problems)
    page = Page(report([str(folder)], "").read_text())
    assert "1 of 1 hypotheses hold: H1." in page.words and "Over all problems" not in page.words
    assert page.words.index("Hypotheses") < page.words.index("Performance profiles")
    lines = list(csv.DictReader(io.StringIO((folder / "tables/hypotheses.csv").read_text())))
    assert [line["problem"] for line in lines] == ["all 2, equal weights", "toy-clean", "toy-noisy"]
    assert lines[0]["hypothesis"] == "H1: it is <above>" and lines[0]["reading"] == "supported"
    assert len(lines[1]["runs"].split(";")) == 5 and lines[1]["minus"] == "soft_label_only"
    matrix = list(csv.DictReader(io.StringIO((folder / "tables/transfer_0.csv").read_text())))
    assert [line["learned on"] for line in matrix] == ["toy-clean", "toy-noisy"]
    assert matrix[0]["toy-noisy"] == matrix[1]["toy-noisy"] != "-" and matrix[1]["toy-clean"] == "-"


def test_mistakes_of_the_command(tmp_path: Path) -> None:
    half = run(tmp_path / "runs/half", 0, row("ac", [0.5], learned=True))
    (half / run_files.RESULTS).unlink()
    (tmp_path / "empty").mkdir()
    for words, expected in (
        ([], "Name runs or a study"),
        ([str(half)], r"half has no results\.json: finish it with resume=true"),
        ([str(tmp_path / "runs")], r"No run of .*runs has results yet\. .*half has no results\.json"),
        ([str(tmp_path / "empty")], "holds neither a run .* nor runs in folders"),
        ([str(tmp_path / "nothing*")], "No run folder matches"),
        (["run=x"], "Unknown option 'run'. Did you mean 'runs'"),
        (["--fast"], "Unknown option '--fast'"),
        ([str(half), "overwrite=perhaps"], "true or false"),
    ):
        with pytest.raises(ValueError, match=expected):
            report(words, "")
    assert not list(tmp_path.rglob("report.html"))


def test_tables_escape_what_each_form_reads_as_its_own() -> None:
    interval = t_interval([-0.5, -0.4, -0.6])
    table = Table("t", "Of & <names>", ("policy", "score"), ((NASTY, interval),), (("runs/<a>",),), signed=True)
    html = as_html(table, {"runs/<a>": ("run-1", "r1")})
    assert "a&lt;b&gt;&amp;&quot;c&quot;" in html and 'href="#run-1" title="runs/&lt;a&gt;">r1<' in html
    assert next(csv.DictReader(io.StringIO(as_csv(table)))) == {
        **{"policy": NASTY, "score": "-0.5", "runs": "runs/<a>"},
        **{"score low": f"{interval.low:.6g}", "score high": f"{interval.high:.6g}"},
    }
    assert r"\$x_1$ \|%" not in as_markdown(table) and r"$x_1$ \|%" in as_markdown(table)
    assert r"a\textless{}b\textgreater{}\&" in as_latex(table) and r"\$x\_1\$" in as_latex(table)
    assert "$-$0.500 [$-$0." in as_latex(table)


def test_a_learning_curve_draws_what_is_one_number_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "as_png", lambda figure: figure)
    points = [{"timesteps": 8.0 * i, "return_mean": 0.1 * i, "gap_closed": 0.1 * i} for i in range(3)]
    [axes] = plots.learning_curve(points).axes
    assert [line.get_label() for line in axes.lines] == ["return: gap closed (feedback split)"]
    [axes] = plots.learning_curve([{**point, "return_mean": 1.0} for point in points]).axes
    assert [line.get_label() for line in axes.lines] == ["return", "gap closed (feedback split)"]


def test_the_time_of_a_training_adds_up_over_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 103.0, 105.0, 900.0, 901.5])
    monkeypatch.setattr(watch.time, "perf_counter", lambda: next(clock))

    class Told:
        take = staticmethod(dict)

    options: Any = {"total": 48, "checkpoint_every": 0, "checkpoint": print, "pause_at": None, "shown": False}
    shown = Shown(tmp_path, "run", "project", {})
    with watch.Watch(tmp_path, Told(), Loggers([], shown), done=0, **options) as first:  # type: ignore[arg-type]
        first({"timesteps": 16.0})
        first({"timesteps": 32.0})
    with watch.Watch(tmp_path, Told(), Loggers([], shown), done=16, **options) as second:  # type: ignore[arg-type]
        second({"timesteps": 32.0})
    assert [point["seconds"] for point in watch.read_history(tmp_path)] == [3.0, 4.5]


CHROMIUM = shutil.which("chromium")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--v=0")
PROBE = """<script>addEventListener("load", () => {
const found = {width: document.documentElement.scrollWidth, seen: innerWidth, figures: {}, boxes: 0,
  dark: getComputedStyle(document.body).backgroundColor};
for (const one of document.querySelectorAll("figure svg")) {
  const box = one.getBoundingClientRect(), ink = one.getBBox();
  found.figures[one.parentElement.id] = [box.width, box.height, ink.width, ink.height];
}
found.boxes = [...document.querySelectorAll(".box")].filter(one => one.scrollWidth > one.clientWidth).length;
document.title = JSON.stringify(found); });</script>"""


def test_a_browser_shows_every_figure_on_a_phone(made: Path, tmp_path: Path) -> None:
    """No message on the console, nothing wider than the page, every figure with ink; without a network."""
    if CHROMIUM is None:
        if os.environ.get("KD_ENV_REQUIRE_ASSETS") == "1":
            pytest.fail("KD_ENV_REQUIRE_ASSETS=1, but there is no chromium")
        pytest.skip("no chromium; apt-get install chromium")
    text = (made / "report.html").read_text()
    copy = tmp_path / "page.html"
    copy.write_text(text.replace("</head>", f"{PROBE}</head>"))
    # Narrow windows are at least 500 pixels wide; a frame is as narrow as it is told to be.
    frame = '<iframe id="phone" src="page.html" width="360" height="800" style="border:0"></iframe>'
    listen = (
        "<script>addEventListener('load', () => { document.body.innerHTML = "
        "'<pre>' + document.getElementById('phone').contentDocument.title + '</pre>'; });</script>"
    )
    (tmp_path / "frame.html").write_text(f"<!DOCTYPE html><meta charset='utf-8'><body>{frame}{listen}</body>")
    command = [CHROMIUM, *FLAGS, "--host-resolver-rules=MAP * ~NOTFOUND", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert not said
    found = json.loads(Page(done.stdout).words)
    assert (found["seen"], found["width"]) == (360, 360)
    assert found["boxes"] > 0  # tables scroll by themselves
    assert set(found["figures"]) == {f"figure-{path.stem}" for path in (made / "figures").glob("*.svg")}
    for name, (width, height, ink_width, ink_height) in found["figures"].items():
        assert 250 < width <= 360 and height > 70 and ink_width > 100 and ink_height > 50, name


def test_a_pilot_says_what_a_study_could_find(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the selection split alone, as the statistics say it."""
    folder = study(tmp_path / "pilot", 3)
    for place in folder.glob("*/results.json"):
        results = json.loads(place.read_text())
        for policy in results["policies"]:
            policy["seeds"]["splits"]["validation"]["gap_closed"] = [9.0] * len(results["seeds"])
        place.write_text(json.dumps(results))
    power([f"{folder}/*", "trainings=[5,10]", "seeds=30"], "")
    said = capsys.readouterr().out
    read = read_runs(find_runs([f"{folder}/*"]))
    values = [values_of(read, policy, SELECTION) for policy in (NASTY, "soft_label_only")]
    found = planned_difference(values[0], values[1], [5, 10], 30)
    assert found[5] > found[10] > 0
    assert f"{found[5]:.3f}" in said and f"{found[10]:.3f}" in said and "soft_label_only" in said and "9.0" not in said
    with pytest.raises(ValueError, match="has one training here"):
        power([str(study(tmp_path / "one", 1)) + "/*"], "")
    with pytest.raises(ValueError, match="trainings=1"):
        power([f"{folder}/*", "trainings=1"], "")
    with pytest.raises(ValueError, match="Unknown option 'train'"):
        power(["train=3"], "")
