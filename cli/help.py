"""Help texts, made from the configuration files themselves."""

from __future__ import annotations

import textwrap

from cli.commands import COMMANDS
from cli.settings.options import says_place
from cli.settings.presets import JOB_GROUPS, description, groups, option_comments, own_presets

EXAMPLES = {
    "train": (
        "kd-env train",
        "kd-env train agent=sb3/ppo seed=1",
        "kd-env train task=toy env.budget=40",
        "kd-env train experiment=mrpc task.data_dir=<glue folder> teacher.name_or_path=<encoder>",
        "kd-env train env=teacher_weighting cofinetuned=<folder of a set>",
        "kd-env train env=tutor_token agent=tutor env.protocol=frozen",
        "kd-env train experiment=ks recipe=paper task=rte task.data_dir=<glue folder>",
        "python train_agent.py -m seed=0,1,2,3,4   (sweeps: only there)",
    ),
    "teacher": (
        "kd-env teacher task=mrpc task.data_dir=<glue folder> teacher.name_or_path=<encoder> output=<folder>",
        "kd-env teacher task=rte teacher=bert_base teacher.epochs=5",
        "kd-env teacher objective=mlm text=<folder of .txt files> teacher.name_or_path=<encoder> output=<folder>",
        "kd-env teacher task=rte task.data_dir=<glue folder> rows=rows.parquet",
        "kd-env teacher task=mrpc teacher=bert_base 'members=[{name: twelve}, {name: six, num_hidden_layers: 6}]'",
    ),
    "evaluate": (
        "kd-env evaluate run=runs/wrong_labels-actor_critic-seed0 evaluation.seeds=20",
        "kd-env evaluate run=runs/wrong_labels-actor_critic-seed0 student.hidden_size=64",
        "kd-env evaluate 'students={none: <folder>, tutor: [<folder>, <folder>]}' train_rows=[32,512] min_updates=200",
    ),
    "glue": (
        "kd-env glue 'students={none: <folder>, tutor: [<folder>, <folder>]}' data_dir=<glue folder>",
        "kd-env glue students=[<folder>] tasks=[sst2,rte] train_rows={sst2: 4000} data_dir=<glue folder> jobs=2",
        "kd-env glue evaluate_only=true 'students={tutor: {sst2: <classifier>}}' data_dir=<glue folder>",
        "kd-env glue 'students={tutor: <folder>}' data_dir=<glue folder> submission=true",
        "kd-env glue runs='runs/study-*' data_dir=<glue folder>",
        "kd-env glue check=runs/glue/submission/tutor.zip",
    ),
    "study": (
        "kd-env study experiment=harmful_knowledge agents=[actor_critic,sb3/ppo] trainings=5",
        "kd-env study experiment=harmful_knowledge controls=[none,shuffled_reward,untrained]",
        "kd-env study experiment=harmful_knowledge agents=[actor_critic,reinforce,sb3/ppo,sb3/a2c] pruning=median",
        "kd-env study env=tutor_token agents=[tutor,sb3/ppo] trainings=2 env.budget=100",
        "kd-env study experiment=tutor_paper agents=[tutor] env.budget=2000 task=sst2 task.data_dir=<glue folder> "
        "teacher.path=<masked language model>",
    ),
    "watch": (
        "kd-env watch runs/harmful_knowledge-study",
        "kd-env watch runs/harmful_knowledge-study once=true",
    ),
    "tune": (
        "kd-env tune experiment=harmful_knowledge agent=sb3/ppo trials=20 "
        "'search={learning_rate: {low: 1e-4, high: 1e-2, log: true}, n_steps: [4, 8, 16]}'",
        "kd-env tune experiment=harmful_knowledge 'search={learning_rate: [0.003, 0.01]}' trials=4 backend=ray",
    ),
    "estimate": (
        "kd-env estimate agent=sb3/ppo task=toy env.budget=40",
        "kd-env estimate experiment=harmful_knowledge agents=[actor_critic,sb3/ppo] trainings=5",
    ),
    "compare": (
        "kd-env compare runs/toy-*",
        "kd-env compare runs=[runs/a,runs/b] out=comparison",
    ),
    "power": ("kd-env power runs/pilot-* trainings=[5,10] seeds=30",),
    "report": (
        "kd-env report runs/quick-study",
        "kd-env report runs=[runs/a,runs/b] out=report",
    ),
    "export": (
        "kd-env export run=runs/quick-actor_critic-seed0 out=student",
        "kd-env export runs='runs/quick-study/*' out=student onnx=true int8=true license=apache-2.0",
        "kd-env export run=runs/mrpc out=student push_to_hub=<user>/<name> private=true",
    ),
}

GOING_ON = {
    "train": "the same command with resume=true goes on from the last checkpoint, and with policies not judged yet; "
    "a higher total_timesteps goes on with a finished run.",
    "teacher": "the same command goes on from the last evaluation; a finished teacher of the same options is kept.",
    "evaluate": "the same command goes on with policies, or fine-tunings, that are not finished.",
    "glue": "the same command goes on with fine-tunings that are not finished; more seeds go on with what is finished.",
    "study": "the same command goes on with trainings that are not finished; which agents are pruned stays as decided.",
    "watch": "nothing is lost, and the study goes on.",
    "tune": "the same command goes on with trials that are not finished; more trials go on with a finished search.",
    "estimate": "nothing is lost.",
    "compare": "nothing is lost; the same command with overwrite=true writes it again.",
    "power": "nothing is lost.",
    "report": "nothing is lost; the same command with overwrite=true writes it again.",
    "export": "nothing is written before all of it is; the same command begins again.",
}
"""What to do with a job that was ended from outside."""


def overview() -> str:
    """``kd-env --help``."""
    lines = ["kd-env: knowledge distillation as a Gymnasium environment", "", "kd-env <command> [key=value ...]", ""]
    lines += [f"  {name:<10} {command.summary}" for name, command in COMMANDS.items()]
    lines += ["", "kd-env <command> --help lists its options; `python train_agent.py` is the same as `kd-env train`."]
    return "\n".join(lines)


def command_help(name: str) -> str:
    """``kd-env <command> --help``: presets of every group, options with defaults, examples."""
    command = COMMANDS[name]
    assert command.config is not None, "bench has a help of its own"
    grouped = command.config in JOB_GROUPS
    lines = [f"kd-env {name}: {command.summary}", ""]
    if name == "evaluate":
        lines += ["run=<folder> names the run; its options hold unless they are given again.", ""]
        lines += ["students=... instead fine-tunes students that were distilled on text; its options stand below.", ""]
    if name in ("train", "study"):
        lines += _wrap("How long:  ", f"kd-env estimate {name} <the same words> says it; so does the job as it begins.")
        lines.append("")
    if name == "estimate":
        lines += ["The words are those of `kd-env train`, listed here, or of `kd-env study` (its --help):", ""]
        lines += ["agents=, controls=, trainings=, jobs= or first_seed=, or the first word study, make it a study.", ""]
    if grouped:
        lines.append("Presets (group=preset):")
        for group, presets in groups(command.config).items():
            lines += _wrap(f"  {group + '=':<12}", ", ".join(presets))
        if command.config == "config":
            lines.append(
                "  Without task=, env= and experiment= it is experiment=wrong_labels; experiment=none leaves that out."
            )
        lines.append("")
    lines.append("Options (key=value), with defaults:")
    for key, value, comment in option_comments(command.config):
        lines += _wrap(f"  {key}={value}  ", comment, 40)
    for group, preset in _shown(command.config) if grouped else ():
        for key, value, comment in option_comments(f"{group}/{preset}"):
            lines += _wrap(f"  {group}.{key}={value}  ", comment, 40)
    if command.config == "config":
        for env in (name for name in own_presets()["env"] if name != "knowledge_selection"):
            lines += ["", f"Options of env={env} that are not the same there:"]
            for key, value, comment in _differing(f"env/{env}", "env/knowledge_selection"):
                lines += _wrap(f"  env.{key}={value}  ", comment, 40)
    if name == "evaluate":
        lines += ["", "Options of students=...:"]
        for key, value, comment in option_comments("downstream"):
            lines += _wrap(f"  {key}={value}  ", comment, 40)
    if name in ("glue", "tune"):
        lines += ["", "Options of where it runs, as of a study's trainings:"]
        for key, value, comment in option_comments("study"):
            if says_place(key):
                lines += _wrap(f"  {key}={value}  ", comment, 40)
    lines += ["", *_wrap("Stopped or killed:  ", GOING_ON[name])]
    cfg = "--cfg job (print the resolved configuration), " if grouped else ""
    lines += ["", f"Flags: --help, {cfg}--debug (tracebacks)", "", "Examples:"]
    lines += [f"  {example}" for example in EXAMPLES[name]]
    if command.config == "config":
        lines += ["", "Experiments:"]
        width = max(map(len, groups()["experiment"])) + 4
        for preset in groups()["experiment"]:
            lines += _wrap(f"  {preset}", description("experiment", preset), width)
        lines += ["", "Regimes:"]
        for preset in groups()["regime"]:
            lines += _wrap(f"  {preset}", description("regime", preset), width)
    return "\n".join(lines)


def bench_help(name: str | None) -> str:
    """``kd-env bench [<name>] --help``."""
    from cli.jobs.bench import help_text
    from cli.jobs.bench import overview as every

    return every() if name is None else help_text(name)


def _shown(config: str) -> list[tuple[str, str]]:
    shown = [("task", "_base"), ("teacher", "_base")]
    more = [("student", "_base"), ("env", "knowledge_selection"), ("agent", "actor_critic")]
    return [*shown, *more] if config == "config" else shown


def _differing(name: str, other: str) -> list[tuple[str, str, str]]:
    """What :func:`option_comments` tells of a file and not of another in the same words."""
    known = option_comments(other)
    return [option for option in option_comments(name) if option not in known]


def _wrap(head: str, text: str, indent: int | None = None) -> list[str]:
    width = len(head) if indent is None else indent
    if len(head) > width:
        return [head.rstrip(), *textwrap.wrap(text, 118, initial_indent=" " * width, subsequent_indent=" " * width)]
    filled = textwrap.wrap(text, 118, initial_indent=head.ljust(width), subsequent_indent=" " * width)
    return filled or [head.rstrip()]
