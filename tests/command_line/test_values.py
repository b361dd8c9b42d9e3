"""Options of another type, options that nothing reads, and agents in environments that they are not for: one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from cli.jobs.evaluate import split_run
from cli.settings.compose import compose
from cli.settings.options import split_options
from cli.settings.read import check, read_begun
from cli.settings.values import check_values
from kd_env.knowledge import check_term_values


def refused(*words: str) -> str:
    """The message that the main job refuses these words with, before anything is loaded or written."""
    with pytest.raises(ValueError) as caught:
        check(read_begun(compose("config", words)))
    return str(caught.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("threads=0", "threads=0 must be a whole number of at least 1"),
        ("threads=true", "threads=True must be"),
        ("resume=5", "resume=5 must be true or false"),
        ("progress=5", "progress=5 must be true or false"),
        ("overwrite=5", "overwrite=5 must be true or false"),
        ("cache_dir=[1]", "cache_dir=[1] must be a text that is not empty"),
        ("cache_dir=5", "write cache_dir=\"'5'\""),
        ("runs_dir=5", "runs_dir=5 must be a text that is not empty"),
        ("runs_dir=null", "runs_dir=None must be a text that is not empty"),
        ("out=[a]", "out=['a'] must be a text that is not empty"),
        ("data_dir=5", "data_dir=5 must be a text that is not empty"),
        ("device=[cpu]", "must be auto, cpu, cuda or cuda:<n>"),
        ("agent_device=gpu", "agent_device='gpu' must be auto, cpu, cuda or cuda:<n>"),
        ("task.name=[toy]", "task.name=['toy'] must be a text"),
        ("task.data_dir=5", "task.data_dir=5 must be a text that is not empty"),
        ("task.columns=5", "task.columns=5 must be a mapping"),
        ("teacher.name_or_path=5", "teacher.name_or_path=5 must be a text that is not empty"),
        ("agent.options=5", "agent.options=5 must be a mapping"),
        ("agent.options={5: 1}", "must be a mapping from names to values"),
        ("agent.label=[a]", "agent.label=['a'] must be a text"),
    ],
)
def test_types_of_shared_options(word: str, message: str) -> None:
    """One table for every job."""
    with pytest.raises(ValueError) as caught:
        check_values(OmegaConf.to_container(OmegaConf.from_dotlist([word])))  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_every_job_reads_the_table() -> None:
    """Main job and kd-env teacher, which composes, and the jobs with a flat file."""
    for job in ("config", "finetune"):
        with pytest.raises(ValueError, match="resume=5 must be true or false"):
            compose(job, ["resume=5"])
    for job, word in (
        ("downstream", "progress=5"),
        ("glue", "progress=5"),
        ("compare", "overwrite=5"),
        ("study", "runs_dir=5"),
    ):
        with pytest.raises(ValueError, match=f"{word} must be"):
            split_options(job, [word])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("agent.options.seed=5", "seed=... of the job"),
        ("evaluation.rules=[{name: all, seed: 5}]", "evaluation.rules: seed is no option of a policy"),
        ("evaluation.seeds=1000000000000", "at most 100000"),
        ("env.budget=1" + 30 * "0", "must be a whole number of at least 1 and at most 9223372036854775807"),
        ("env.terms=[{name: soft_label, temperature: 1" + 400 * "0" + "}]", "... (401 characters) must be a finite"),
        ("env.terms=[{name: minilm, relations: 5}]", "minilm.relations=5 must be a list"),
    ],
)
def test_types_of_the_main_job(word: str, message: str) -> None:
    """Before a teacher is made: values of terms, too."""
    assert message in refused(word)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"name": "soft_label", "temperature": "hot"}, "soft_label.temperature='hot' must be a finite number"),
        ({"name": "soft_label", "temperature": True}, "soft_label.temperature=True must be a finite number"),
        ({"name": "hidden_states", "distance": ["mse"]}, "Unknown value of hidden_states.distance"),
        ({"name": "minilm", "relation_heads": 1.5}, "minilm.relation_heads=1.5 must be a whole number"),
        ({"name": ["cls"]}, "A term must be a name"),
    ],
)
def test_values_of_terms_need_no_models(term: dict[str, Any], message: str) -> None:
    """What depends on sizes is left to the problem."""
    with pytest.raises(ValueError) as caught:
        check_term_values([term], regression=False)
    assert message in str(caught.value)
    check_term_values(
        [{"name": "minilm", "relation_heads": 7}, {"name": "hidden_states", "projected": "teacher"}], True
    )


@pytest.mark.parametrize("agent", ["teacher_selector", "row_actor_critic", "row_reinforce"])
def test_agents_name_themselves_where_they_do_not_fit(agent: str) -> None:
    """Not what their preset brings, which nobody typed."""
    message = refused(f"agent={agent}")
    assert message.startswith(f"agent={agent} is for ") and "env=teacher_weighting" in message
    assert "but the environment is env=knowledge_selection" in message
    assert "Unknown value of action_view: 'foo'" in refused(f"agent={agent}", "env.action_view=foo")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["env.gate=false"], "env.action_view=native nothing reads it: only env.action_view=box does"),
        (["env=sample_weighting", "env.score=margin"], "only env.action_view=discrete or env.action_view=box"),
        (
            ["env=sample_weighting", "env.influence.rows=5", "evaluation.rules=[uniform]"],
            "env.influence is given, but nothing asks for the influence of rows",
        ),
    ],
)
def test_options_that_nothing_reads_are_refused(words: list[str], message: str) -> None:
    """With what would read them."""
    assert message in refused(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["env.action_view=box", "env.gate=false"],
        ["agent=knowledge_selector_published", "agent.action_view=native", "agent.options.mode=hard"],
        ["env=sample_weighting", "env.action_view=box", "env.score=margin"],
        ["env=sample_weighting", "env.influence.rows=5", "evaluation.rules=[lgtm]"],
        [
            "env=sample_weighting",
            "env.influence.rows=5",
            "env.features=[progress,row_influence]",
            "evaluation.rules=[]",
        ],
    ],
)
def test_options_that_something_reads_are_taken(words: list[str]) -> None:
    """A preset's own are left out where nothing reads them: nobody typed them."""
    settings = check(read_begun(compose("config", words)))
    assert settings.env.gate is (settings.env.action_view == "native" or "env=sample_weighting" in words)


def test_a_study_has_no_processes_of_an_evaluation(tmp_path: Any) -> None:
    """evaluation.jobs=4 would be set to 1 without a word."""
    from cli.jobs.study import study

    with pytest.raises(ValueError, match=r"'evaluation.jobs=4' has no place in a study: each training is one process"):
        study(["evaluation.jobs=4", f"runs_dir={tmp_path}"], "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["run='runs/a b'", 'run="runs/a b"', "run=runs/a b", "runs/a b", "'runs/a b'"])
def test_run_folders_may_be_quoted(word: str) -> None:
    """As values of other options are, where a shell has left the marks."""
    assert split_run([word, "env.budget=8"]) == (Path("runs/a b"), ["env.budget=8"])
    with pytest.raises(ValueError, match="the quotation mark ' is not closed"):
        split_run(["run='runs/a"])
