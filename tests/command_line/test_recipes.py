"""``recipe=paper``: the same job as the experiment that it stands for, or a refusal that lists those that there are."""

from __future__ import annotations

import pytest

from cli.runs.config import differences
from cli.settings.compose import compose, resolve_overrides
from cli.settings.presets import groups
from cli.settings.recipes import paper_recipe, paper_recipes

PUBLISHED = paper_recipes(groups()["experiment"])
MODEL = ["teacher.name_or_path=encoder"]


@pytest.mark.parametrize(
    ("experiment", "target"),
    [
        ("mt_bert", "mt_bert_paper"),
        ("mt_bert_paper_small", "mt_bert_paper"),
        ("ks", "ks_paper"),
        ("ks_paper_small", "ks_paper"),
    ],
)
def test_a_recipe_is_the_experiment_as_published(experiment: str, target: str) -> None:
    """Every value but the key itself, which the resolved configuration records."""
    found = compose("config", [f"experiment={experiment}", "recipe=paper", "task=rte", *MODEL])
    wanted = compose("config", [f"experiment={target}", "task=rte", *MODEL])
    assert found.pop("recipe") == "paper" and wanted.pop("recipe") is None
    assert found == wanted and found["presets"]["experiment"] == target


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_published_recipe_is_found_by_its_method(name: str) -> None:
    """And by itself."""
    known = groups()["experiment"]
    assert paper_recipe(name, known) == paper_recipe(f"{name}_paper", known) == f"{name}_paper"


def test_the_longest_name_counts() -> None:
    """A method whose name begins with that of another has its own recipe."""
    known = ("kd", "kd_mrpc", "kd_paper", "kd_dist", "kd_dist_mrpc", "kd_dist_paper")
    assert paper_recipe("kd_dist_mrpc", known) == "kd_dist_paper" and paper_recipe("kd_mrpc", known) == "kd_paper"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment=quick", "recipe=paper"], "'quick' has no recipe as published. Those of .*ks, .*mt_bert.* have"),
        (["recipe=paper"], "recipe=paper needs experiment=<name>; valid: .*ks, .*mt_bert"),
        (["experiment=mt_bert", "recipe=papre"], "Unknown recipe 'papre'. Did you mean 'paper'"),
        (["experiment=ks"], "Unknown experiment preset 'ks'"),
    ],
)
def test_bad_recipes(words: list[str], message: str) -> None:
    """Before anything is composed."""
    with pytest.raises(ValueError, match=message):
        compose("config", words)


def test_recipes_in_sweeps() -> None:
    """Every method of a sweep is published; the recipe itself is not swept."""
    found = resolve_overrides("config", ["experiment=mt_bert,ks", "recipe=paper", *MODEL], sweep=True)
    assert found[0] == "experiment=mt_bert_paper,ks_paper" and "recipe=paper" in found
    with pytest.raises(ValueError, match="recipe takes one value"):
        resolve_overrides("config", ["experiment=mt_bert", "recipe=paper,null", *MODEL], sweep=True)


def test_an_experiment_that_does_not_exist_has_no_recipe() -> None:
    """A slip of the pen must not start the paper's own size."""
    with pytest.raises(ValueError, match=r"'lgtm_mrcp'.*Did you mean.*lgtm_mrpc"):
        paper_recipe("lgtm_mrcp", ["lgtm", "lgtm_mrpc", "lgtm_paper"])
    assert paper_recipe("lgtm_mrpc", ["lgtm", "lgtm_mrpc", "lgtm_paper"]) == "lgtm_paper"
    assert paper_recipe("ks", ["ks_paper"]) == "ks_paper"


OF_A_SMALL_TWIN = {
    *("presets", "task.name", "task.max_length", "teacher.path", "teacher.name_or_path", "cofinetuned"),
    *("student.name_or_path", "student.num_hidden_layers", "student.hidden_size", "student.embedding_size"),
    *("env.text", "env.column", "env.budget", "env.epochs", "env.batch_size", "env.precision", "env.influence.rows"),
    *("env.optimizer.learning_rate", "env.learning_teacher.learning_rate", "env.evaluate_every", "env.evaluation_rows"),
    *("env.learning_teacher.num_hidden_layers", "teacher.source", "teacher.cache_dtype", "checkpoint_every"),
    *("total_timesteps", "evaluation.seeds", "evaluation.rules"),
    *("student.train_embeddings", "env.learning_teacher.train_embeddings"),
}
"""What a recipe on a small encoder may say otherwise: models, text, lengths, rates, and nothing of the method."""


@pytest.mark.parametrize("method", ["tutor_kd", "lgtm", "ks", "mt_bert"])
def test_a_small_twin_is_the_method_of_the_paper(method: str) -> None:
    paper, small = (compose("config", [f"experiment={method}_paper{size}"]) for size in ("", "_small"))
    changed = set(differences(paper, small))
    assert changed and {key for key in changed if not key.startswith("presets")} <= OF_A_SMALL_TWIN


@pytest.mark.parametrize(("student", "millions"), [("6x768", 66), ("12x264", 14), ("6x264", 9), ("2x264", 5.7)])
def test_tutor_kds_students_have_the_printed_sizes(student: str, millions: float) -> None:
    """With BERT's vocabulary, 512 positions and two segments."""
    options = compose("config", [f"student=tutor_kd_{student}"])["student"]
    wide, layers, words = options["hidden_size"], options["num_hidden_layers"], options["embedding_size"]
    embeddings = (30522 + 512 + 2 + 2) * (words or wide) + ((words + 1) * wide if words else 0)
    block = 4 * wide * (wide + 1) + 2 * 4 * wide * wide + 5 * wide + 4 * wide
    assert (embeddings + layers * block) / 1e6 == pytest.approx(millions, rel=0.03)
