"""``kd-env export``: the best student of finished runs as a folder that ships."""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.jobs.compare import find_runs, read_runs
from cli.jobs.exports.gather import Sources, gather
from cli.jobs.exports.hub import push
from cli.jobs.exports.options import ExportOptions, read_export
from cli.jobs.exports.student import check_can_distil, distil_again, kept_student
from cli.jobs.exports.write import write_files, write_texts
from cli.jobs.kinds.catalog import job_of
from cli.jobs.kinds.prepare import set_threads
from cli.runs import folder as runs
from cli.runs.former import with_former_defaults
from cli.runs.rows import check_rows
from cli.settings import probe
from cli.settings.read import check, read_settings
from kd_env.core.locks import owned
from kd_env.evaluation.judging.results import SELECTION
from kd_env.evaluation.shipping.choice import standings
from kd_env.evaluation.shipping.facts import RECORD, Facts
from kd_env.evaluation.shipping.verdict import verdict
from kd_files.manifest import MANIFEST
from kd_files.writing import new_folder

_SAME = 1e-5
"""Difference of a metric that is rounding alone."""


def export(words: Sequence[str], command: str) -> Path:
    """``kd-env export run=<folder> out=<folder>``; the folder that is written.

    Args:
        words: ``key=value``, and folders.
        command: how the job was called.

    Raises:
        ValueError: an option that does not fit, no finished run, runs of masked text or under a control, a student that
            is lost, a place that is in use, an ONNX file that says something else, or a hub that takes nothing.
    """
    probe.require_own_agents()
    options = read_export(words)
    folders = find_runs(options.patterns)
    configs = [runs.run_config(folder) for folder in folders]
    _check_place(options)
    _check_shippable(folders, configs)
    found = read_runs(folders)
    standing = standings(found, options.by)
    chosen = standing.chosen
    run, config = folders[chosen.run], configs[chosen.run]
    settings = dataclasses.replace(check(read_settings(with_former_defaults(config))), run_folder=run)
    job = job_of(settings)
    kept = kept_student(run, chosen, settings.agent.label)
    if kept is None:
        check_can_distil(job, run, chosen)
    out = options.out
    out.parent.mkdir(parents=True, exist_ok=True)
    with owned(out, "folder", "wait for its end or stop it, or choose another place with out=..."):
        set_threads(settings.resolved["threads"])
        problem = job.load_problem()
        hashes = job.row_hashes(problem)
        check_rows(run, hashes, "make the run again")
        with tempfile.TemporaryDirectory() as work, new_folder(out) as fresh:
            if kept is None:
                distil_again(job, problem, run, chosen, Path(work) / "student", options.progress)
            shipped = write_files(kept or Path(work) / "student", problem, fresh, options)
            facts = gather(Sources(settings, problem, standing, hashes), shipped, options)
            _tell_other_value(facts, kept)
            write_texts(fresh, facts)
        for manifest in out.rglob(MANIFEST):  # people edit a card, which would be damage to a manifest
            manifest.unlink()
    print(f"Written to {out}", flush=True)
    if options.push_to_hub is not None:
        print(f"Pushed to {push(out, options.push_to_hub, options.private)}", flush=True)
    print(verdict(facts), flush=True)
    return out


def _check_place(options: ExportOptions) -> None:
    out = options.out
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not (out / RECORD).is_file():
        raise ValueError(
            f"{out} exists and is no exported student ({RECORD} is missing); choose another place with out=..."
        )
    if not options.overwrite:
        raise ValueError(
            f"{out} exists; replace the student in it with overwrite=true, or choose another place with out=..."
        )


def _check_shippable(folders: Sequence[Path], configs: Sequence[Mapping[str, Any]]) -> None:
    """Refuse runs whose students are no classifiers, or were made to show something else; raises ``ValueError``."""
    for folder, config in zip(folders, configs, strict=True):
        environment = config["env"]
        if environment.get("objective") == "text":
            raise ValueError(
                f"The students of {folder} are masked language models (env.objective=text) and know no labels: "
                "fine-tune them with kd-env evaluate students=... or kd-env glue; an export is for students of a task."
            )
        if config.get("control", "none") != "none":
            raise ValueError(
                f"{folder} was trained under control={config['control']}, which shows that nothing was learned: leave "
                "it out."
            )


def _tell_other_value(facts: Facts, kept: Path | None) -> None:
    """Say where the student is not to the last row what the run had judged."""
    own = facts.splits[SELECTION].own[facts.metric]
    if abs(own - facts.judged) > _SAME:
        why = "Other versions or another machine round otherwise"
        if kept is not None:
            why += f", or {kept} is of an earlier training of this run: delete it, and it is distilled again"
        warnings.warn(
            f"The student has {facts.metric} {own:.4f} on the selection split, where the run found {facts.judged:.4f}. "
            f"{why}. The card says both.",
            UserWarning,
            stacklevel=2,
        )
