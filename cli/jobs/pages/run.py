"""The page that the main job ends with."""

from __future__ import annotations

from pathlib import Path


def write_run_page(folder: Path, command: str) -> None:
    """``report.html`` and ``policies.png`` of a run, from the results in its folder.

    The numbers are safe by then: where no page can be made of them, that is said, and the job goes on.
    """
    from cli.jobs.compare import read_runs
    from cli.jobs.pages.reading import problem_of
    from kd_env.evaluation.comparing.compare import compare
    from kd_env.evaluation.pages.contents import Study
    from kd_env.evaluation.pages.write import PAGE, write_page

    try:
        read = read_runs([folder])
        problem = problem_of(read, compare(read), folder)
    except ValueError as error:
        print(f"{PAGE} is not written: {error}", flush=True)
        return
    write_page(folder, Study(f"{folder.name}: {problem.name}", command, (problem,)), files=False)
