"""The cases that are recorded: which environment, with which options, and who acts in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Act = Callable[[Any, int], Any]
"""What is done in ``env.unwrapped`` at a step, in place of a sampled action."""


@dataclass(frozen=True)
class Case:
    """One short run.

    Attributes:
        env: the registered id, without ``kd_env/``.
        build: options of the problem, which cases with equal ones share; ``scores`` adds those of :data:`SCORED`.
        process: options of the decision process, given beside the shared problem.
        num_envs: replicas of ``make_vec``; 0 is ``make``.
        steps: of the run; a single environment is reset where an episode ends.
        seed: of the first reset.
        reset: options of every reset.
        rule: name and options of the rule that acts; None: samples of the action space, or ``act``.
        probes: names of what is asked of ``env.unwrapped`` before every step (:data:`PROBES`).
        students: whether the students' tensors are recorded; what is left of one that diverged is arbitrary.
        rounding: factor on the relative difference that is allowed where bits differ.
    """

    env: str
    build: Mapping[str, Any] = field(default_factory=dict)
    process: Mapping[str, Any] = field(default_factory=dict)
    num_envs: int = 0
    steps: int = 2
    seed: int = 5
    reset: Mapping[str, Any] = field(default_factory=dict)
    rule: tuple[str, Mapping[str, Any]] | None = None
    act: Act | None = None
    probes: tuple[str, ...] = ()
    students: bool = True
    rounding: float = 1.0


PROBES: dict[str, Callable[[Any], Any]] = {
    "row_influence": lambda env: env.row_influence(),
    "log_probabilities": lambda env: env.log_probabilities().numpy(),
    "original_tokens": lambda env: env.original_tokens().numpy(),
    "student_errors": lambda env: env.student_errors(env.original_tokens()).numpy(),
    "layout": lambda env: " ".join(f"{name}:{p.start}:{p.stop}" for name, p in env.observation_layout.items()),
    "names": lambda env: " ".join(env.action_names),
}

SMALL = {"max_train_rows": 48, "feedback_rows": 32, "selection_rows": 16, "evaluation_rows": 24}
EXACT = {"precision": "fp64", "device": "cpu"}
TOY = {**SMALL, **EXACT, "student": {"hidden_size": 12, "num_attention_heads": 2}, "batch_size": 4, "budget": 5}
TOY["learning_rate"] = 0.01
ONLINE = {**TOY, "teacher_source": "online"}
TEXT = {**SMALL, **EXACT, "student": {"hidden_size": 16, "num_attention_heads": 4}, "slots": 2, "num_candidates": 4}
TEXT |= {"batch_size": 3, "budget": 3, "evaluation_rows": 12, "optimizer": {"learning_rate": 0.01}}
SCORED = {**EXACT, "scores": True}
"""The tiny regression of :mod:`kd_env.testing`."""
EVERY_TASK_LOSS = {"soft_label": 1.0, "hard_label": 0.5, "hidden_states": 0.5, "attention": 0.25}

TERM_FEATURES = (
    *("progress", "remaining_budget", "learning_rate", "term_losses", "term_losses_normalized", "gap"),
    *("student_entropy", "teacher_entropy", "agreement", "feedback_metric", "previous_action", "teacher_cls"),
    *("student_cls", "gradient_cosines"),
)
TEACHER_FEATURES = (
    *("teacher_losses", "teacher_entropies", "teacher_confidences", "teacher_student_agreement", "teacher_agreement"),
    *("student_on_batch", "teacher_representations"),
)
SAMPLE_FEATURES = ("margin", "confidence", "length", "seen", "influence")
ROW_FEATURES = tuple(
    {"student_on_batch": "row_student"}.get(name, f"row_{name}") for name in (*TEACHER_FEATURES, *SAMPLE_FEATURES)
)
SCORES = ("student_loss", "teacher_loss", "disagreement", "student_entropy", "margin", "confidence", "influence")
REWARDS = (
    *("gap_closed", "loss_drop", "raw_loss_drop", "metric_gain", "final_metric", "rl_kd_label", "rl_kd_distill"),
    "rl_kd_accuracy",
)
TERMS = (
    *("hard_label", "soft_label", "hidden_states", "relation", "attention", "cls", "minilm", "rkd", "logit_mse"),
    "dist",
)

CASES: dict[str, Case] = {}


def _add(name: str, env: str, build: Mapping[str, Any], /, **more: Any) -> None:
    """File a case; ``process`` is what remains of the keywords when those of :class:`Case` are taken out."""
    own = {key: more.pop(key) for key in tuple(more) if key in Case.__dataclass_fields__}
    CASES[name] = Case(env, build, more, **own)


def _knowledge_selection() -> None:
    def add(name: str, suffix: str = "", build: Mapping[str, Any] = TOY, **more: Any) -> None:
        _add(f"knowledge_selection/{name}", f"KnowledgeSelection{suffix}-v0", build, **more)

    add("native", probes=("layout", "names"), steps=4)
    add("discrete", "Discrete", probes=("names",), steps=3)
    add("box", "Continuous", probes=("names",), steps=3)
    add("box_view", action_view="box", gate=False)
    for name in REWARDS:
        add(f"reward_{name}", reward=name, updates_per_step=3)
    for name in ("labels", "divergence"):
        add(f"gap_{name}", gap=name)
    add("unscaled", build={**TOY, "terms": [{"name": "hard_label", "weight": 0.5}, "soft_label"], "term_scale": "none"})
    for name in ("mean", "sum"):
        add(f"weights_{name}", "Continuous", weight_normalization=name, updates_per_step=1)
    add("sparse", evaluate_every=0, steps=3)
    add("every_second", evaluate_every=2, updates_per_step=1, steps=5)
    add("truncated", max_episode_steps=2, steps=4)
    add("longer_budget", reset={"budget": 8}, steps=5)
    add(
        "every_term",
        build={**TOY, "terms": list(TERMS), "student": {"hidden_size": 12, "num_attention_heads": 4}},
        probes=("layout",),
    )
    add("every_feature", build={**TOY, "features": list(TERM_FEATURES)}, probes=("layout",), steps=4)
    add("teacher_online", build=ONLINE)
    add("teacher_student", build={**TOY, "teacher_source": "student"})
    add("half_cache", build={**TOY, "cache_dtype": "float16"})
    add("noisy", build={**TOY, "label_noise": 0.3, "feedback_labels": "shuffled"})
    add("feedback_rows_too", build={**TOY, "train_on": "train+feedback"})
    epochs = {key: value for key, value in TOY.items() if key != "budget"}
    add("epochs", build={**epochs, "epochs": 0.4}, steps=4)
    cut = {"init": "teacher", "num_hidden_layers": 1, "layers": "last", "train_embeddings": True}
    add("cut_student", build={**TOY, "student": cut})
    add("dropout", build={**TOY, "student": {"hidden_size": 12, "num_attention_heads": 2, "dropout": 0.2}})
    deep = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "embedding_size": 6, "zero_head": True}
    add("deep_student", build={**TOY, "student": deep, "layer_map": "last"})
    add("pairs_of_sentences", build={**TOY, "task": "toy_pair"})
    optimizer = {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1, "max_grad_norm": None, "warmup": 0.5}
    add("regression", build=SCORED)
    add("optimizer", optimizer={**optimizer, "learning_rate": 0.005})
    add("diverged", learning_rate=1e200, students=False, steps=3)
    add("single_precision", build={**TOY, "precision": "fp32"}, rounding=100.0)
    add("default_options", build={**SMALL, "device": "cpu"}, updates_per_step=1, steps=2, rounding=100.0)
    add("greedy", rule=("greedy", {}))
    add("annealing", "Continuous", rule=("annealing", {"other_weight": 0.5}))
    add(
        "encoded",
        "Continuous",
        act=lambda env, step: env.decision.encode({"soft_label": 0.5, "relation": 1.0}, step / 2),
    )
    add("vector", num_envs=3, steps=5)
    add("vector_discrete", "Discrete", num_envs=2, steps=4)
    add("vector_box", "Continuous", num_envs=2, steps=4)
    add("vector_waiting", "Continuous", num_envs=2, steps=4, autoreset_mode="disabled")
    add("vector_greedy", num_envs=2, rule=("greedy", {}))


def _teacher_weighting() -> None:
    def add(name: str, suffix: str = "", build: Mapping[str, Any] = TOY, **more: Any) -> None:
        _add(f"teacher_weighting/{name}", f"TeacherWeighting{suffix}-v0", build, **more)

    add("native", probes=("layout", "names"), steps=4)
    add("discrete", "Discrete", probes=("names",), steps=3)
    add("box", "Continuous", probes=("names",), steps=3)
    for view in ("simplex", "subset"):
        add(view, action_view=view)
    by_row = {**TOY, "weighting": "sample"}
    add("rows", build=by_row, probes=("layout", "names"), steps=4)
    for view in ("simplex", "subset", "box"):
        add(f"rows_{view}", build=by_row, action_view=view)
    add("every_feature", build={**TOY, "features": ["progress", *TEACHER_FEATURES, "teacher_cls"]}, probes=("layout",))
    rows = {**by_row, "features": ["progress", *ROW_FEATURES[:7]]}
    add("every_row_feature", build=rows, probes=("layout",))
    several = ["hard_label", "soft_label", "hidden_states", "relation"]
    add("several_terms", build={**TOY, "terms": several, "weighs": ["soft_label", "hidden_states"]})
    add("distill_reward", reward="rl_kd_distill", action_view="subset")
    add("divergence", gap="divergence")
    add("online", build=ONLINE)
    add("best_teacher", rule=("best_teacher", {}), action_view="subset")
    add("mt_bert", rule=("mt_bert", {}))
    add("rows_dynamic", build=by_row, rule=("dynamic_soft_instance", {}))
    add("effect", act=lambda env, step: env.decision.effect(np.array([[0.5, 1.5, step + 0.25]])))
    add("vector", num_envs=2, steps=4)
    add("vector_rows", build=by_row, action_view="subset", num_envs=3, budget=2, steps=3)
    add("vector_mt_bert", num_envs=2, rule=("mt_bert", {}))


def _lessons(env: Any, step: int) -> Any:
    """Lessons of every kind in turn: with and without influence, of both targets, matched or not."""
    weights = np.linspace(0.5, 1.5, env.batch_size)[None]
    return env.decision.lesson(weights, 0.5 * step, ("student_loss", "teacher_loss")[step % 2], step == 2)


def _sample_weighting() -> None:
    def add(name: str, suffix: str = "", build: Mapping[str, Any] = TOY, **more: Any) -> None:
        _add(f"sample_weighting/{name}", f"SampleWeighting{suffix}-v0", build, **more)

    add("native", probes=("layout", "names", "row_influence"), steps=6)
    add("discrete", "Discrete", probes=("names",), steps=3)
    add("box", "Continuous", probes=("names",), steps=3)
    add("subset", action_view="subset")
    for name in SCORES:
        add(f"score_{name}", "Continuous", score=name)
    everything = ["progress", *TERM_FEATURES[-3:], *SAMPLE_FEATURES, *ROW_FEATURES]
    add("every_feature", build={**TOY, "features": everything}, probes=("layout",))
    add(
        "influence_sgd", influence={"optimizer": "sgd", "learning_rate": 0.05, "clip": False}, probes=("row_influence",)
    )
    add("noisy", build={**TOY, "label_noise": 0.3}, rule=("lgtm", {}))
    regression = {**SCORED, "features": ["progress", "row_student", "row_teacher_losses", "row_influence"]}
    add("regression", build={**regression, "updates_per_step": 1}, rule=("lgtm", {}))
    add("self_paced", rule=("self_paced", {}))
    add("effect", act=lambda env, step: env.decision.effect(np.array([[0.0, 0.5, 1.5, step]])))
    add("encoded", act=lambda env, step: env.decision.encode(np.array([0.0, 0.5, 1.5, step / 2])))
    add("vector", "Continuous", num_envs=2, budget=3, steps=4)
    add("vector_lgtm", num_envs=2, rule=("lgtm", {}))

    teacher = {"learning_rate": 1e-3, "log_every": 1}
    kept = {**ONLINE, "teacher_updates": "prokt", "learning_teacher": teacher}
    weighted = {**kept, "teacher_updates": "weighted"}
    add("prokt", build=kept, probes=("layout", "row_influence"))
    add("prokt_lgtm", build=kept, rule=("lgtm", {"influence_coef": 0.5}))
    add("prokt_metadistil", build=kept, rule=("metadistil", {}))
    add("prokt_frozen", build=kept, rule=("frozen_teacher", {}))
    add("weighted", build=weighted, steps=5)
    add("weighted_box", "Continuous", build=weighted, num_envs=2, budget=3, steps=4)
    add("lessons", build={**weighted, "learning_teacher": {**teacher, "log_cosine": True}}, act=_lessons, steps=4)
    fresh = {**teacher, "init": "fresh", "zero_head": True, "train_embeddings": True, "num_hidden_layers": 1}
    add(
        "fresh_teacher",
        build={**kept, "learning_teacher": fresh, "terms": ["hard_label", "soft_label", "hidden_states"]},
    )
    add("teacher_dropout", build={**kept, "learning_teacher": {**teacher, "dropout": 0.1}}, rule=("lgtm", {}))
    add("vector_prokt_lgtm", build=kept, num_envs=2, rule=("lgtm", {}))
    again = {**SCORED, "updates_per_step": 1, "features": ["progress"], "teacher_source": "online"}
    add("prokt_regression", build={**again, "teacher_updates": "prokt"}, rule=("lgtm", {}))
    CASES["knowledge_selection/prokt"] = Case("KnowledgeSelection-v0", kept)


def _divergence_shaping() -> None:
    def add(name: str, suffix: str = "", build: Mapping[str, Any] = TOY, **more: Any) -> None:
        _add(f"divergence_shaping/{name}", f"DivergenceShaping{suffix}-v0", build, **more)

    by_row = {**TOY, "weighting": "sample", "updates_per_step": 1}
    add("native", probes=("layout", "names"), steps=3)
    add("discrete", "Discrete", probes=("names",), steps=3)
    add("rows_box", "Continuous", build=by_row, probes=("layout", "names"), steps=3)
    add("ctkd", rule=("ctkd", {}))
    add("vector_rows", build=by_row, num_envs=2, budget=2, steps=3)


def _tutor_token() -> None:
    def add(name: str, suffix: str = "", build: Mapping[str, Any] = TEXT, **more: Any) -> None:
        _add(f"tutor_token/{name}", f"TutorToken{suffix}-v0", build, **more)

    reads = ("log_probabilities", "original_tokens", "student_errors")
    task = {**TEXT, "task": "toy"}
    add("native", probes=reads, steps=4)
    add("discrete", "Discrete", probes=("names",), steps=3)
    add("box", "Continuous", probes=("names",), steps=3)
    add("candidates", action_view="candidates")
    for view in ("native", "candidates", "discrete", "box"):
        add(f"sequential_{view}", action_view=view, mode="sequential", steps=3)
        add(f"task_{view}", build=task, action_view=view)
    add("sequential_every_second", build={**TEXT, "slots": 3}, mode="sequential", teacher_every=2, steps=4)
    add("flat", observation="flat", probes=("layout",), action_view="candidates")
    for name in ("teacher_recognises", "student_error", "gap_closed", "loss_drop"):
        add(f"reward_{name}", reward=name)
    add("bernoulli", build={**TEXT, "masking": "bernoulli", "slots": None, "mask_rate": 0.3})
    paper = {"recipe": "paper", **EXACT, **SMALL, "evaluation_rows": 12, "batch_size": 3, "budget": 3}
    add("paper", build=paper, steps=3)
    add("modified_paper_parts", build={**TEXT, "student_head": "mlm"}, projection="always", layer_reduction="sum")
    add("plausibility_alone", losses={"plausibility": 1.0})
    add("sparse", evaluate_every=0, steps=3)
    add("truncated", max_episode_steps=2, steps=3)
    add("cut_student", build={**TEXT, "student": {"init": "teacher", "num_hidden_layers": 1}})
    add("task_sequential", build=task, mode="sequential", probes=("student_errors",), steps=4)
    add("task_every_loss", build=task, losses=EVERY_TASK_LOSS, reward="gap_closed")
    add("diverged", optimizer={"learning_rate": 1e200}, students=False, steps=3)
    add("single_precision", build={**TEXT, "precision": "fp32"}, rounding=100.0)
    add("teacher_samples", rule=("teacher_samples", {}))
    add("difficult_of_n", rule=("difficult_of_n", {}), mode="sequential")
    add("vector", num_envs=2, steps=4)
    add("vector_sequential", num_envs=3, mode="sequential", action_view="candidates", budget=2, steps=5)
    add("vector_task", build=task, num_envs=2, action_view="box", steps=4)


for _group in (_knowledge_selection, _teacher_weighting, _sample_weighting, _divergence_shaping, _tutor_token):
    _group()
