"""``kd-env tutor``: trainings, rules and a report, gone on with where they are there; students that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents import make_rule
from agents.sb3.algorithms import ALGORITHMS
from agents.tutor.agent import Tutor
from cli.jobs import tutor as job
from cli.jobs.tutor import Entry, read_agents
from cli.main import run
from kd_env.decisions.tutor_token.corpus import build_tutor_problem
from kd_env.decisions.tutor_token.options import TutorConfig
from kd_env.decisions.tutor_token.process import with_tutor_options
from kd_env.decisions.tutor_token.reading import PROJECTION
from kd_env.envs.tutor_env import TutorVectorEnv
from kd_env.evaluation.judging import tutoring
from kd_env.evaluation.judging.tutor_dev import with_dev_rows
from kd_env.evaluation.judging.tutoring import Contender, evaluate_tutors

STUDENT = "{hidden_size: 8, num_attention_heads: 2}"


def words(tiny_text: dict[str, Any], tmp_path: Path, *more: str, **env: Any) -> list[str]:
    """A tiny study; ``more`` takes the place of its options."""
    plain = {key: value for key, value in tiny_text.items() if key not in ("student", "optimizer")} | env
    joined = ", ".join(f"{key}: {value}" for key, value in plain.items())
    options = {
        **{
            "protocol": "frozen",
            "env": f"{{{joined}, student: {STUDENT}}}",
            "trainings": "2",
            "total_timesteps": "8",
            "num_envs": "2",
        },
        **{"evaluation_seeds": "3", "samples": "2", "progress": "false", "rules": "[teacher_samples,random_tokens]"},
        **{"runs_dir": str(tmp_path), "name": "study"},
        **dict(word.split("=", 1) for word in more),
    }
    return [f"{key}={value}" for key, value in options.items()]


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_study_trains_compares_and_goes_on(
    tiny_text: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tutor", words(tiny_text, tmp_path), "kd-env tutor") == 0
    folder = tmp_path / "study"
    data = results(folder)
    assert list(data["tutors"]) == ["tutor-seed0", "tutor-seed100", "teacher_samples", "random_tokens"]
    rewards = {name: np.array(values["reward"]) for name, values in data["tutors"].items()}
    assert all(values.shape == (3,) for values in rewards.values())
    own = np.stack([rewards["tutor-seed0"], rewards["tutor-seed100"]])
    found = data["differences"]["reward"]["tutor"]["random_tokens"]["interval"]
    assert found["units"] == 2 and found["mean"] == pytest.approx((own - rewards["random_tokens"]).mean())
    assert len(data["samples"]) == 2 and data["facts"]["saw_feedback"] == "unknown"
    for sample in data["samples"]:
        before, after = (sample[name].split() for name in ("original", "edited"))
        changed = [(x, a) for x, a in zip(before, after, strict=True) if x.startswith("[w")]
        assert len(changed) == 2 and all(a.startswith("[") for _, a in changed)
    assert data["differences"]["reward"]["tutor"]["random_tokens"]["interval"]["seeds"] == 3
    printed = capsys.readouterr().out
    assert "| tutor * | 2 |" in printed and "Minimum detectable difference in reward (power 0.8" in printed
    above = all(row["interval"]["low"] > 0 for row in data["differences"]["dev_gap_closed"]["tutor"].values())
    first = "Above every rule in gap closed (dev): tutor (" if above else "Nothing learned is above every rule in gap"
    assert (folder / "results.md").read_text().startswith(first)
    assert "3 seeds: shown, no claim (a claim needs 30)." in printed
    assert not (folder / "students").exists()

    trained = (folder / "tutor-seed0" / "agent.json").stat().st_mtime_ns
    judged = stamps(folder / "judged")
    assert run("tutor", words(tiny_text, tmp_path, "evaluation_seeds=2"), "") == 0
    assert (folder / "tutor-seed0" / "agent.json").stat().st_mtime_ns == trained
    assert all(stamps(folder / "judged")[name] != before for name, before in judged.items()), "other students"
    assert run("tutor", words(tiny_text, tmp_path, "total_timesteps=16"), "kd-env tutor") == 2
    assert "other values of total_timesteps" in capsys.readouterr().err
    changed = ["agents=[{name: tutor, options: {kl_coef: 0.5}}]", "agent={kl_coef: 0.5}"]
    for word in changed:
        assert run("tutor", words(tiny_text, tmp_path, word), "kd-env tutor") == 2
        assert "other values of the agent tutor" in capsys.readouterr().err


# What libraries warn of when they are driven for a few steps is not what is tested here.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_algorithms_are_swapped_and_nothing_is_done_twice(
    tiny_text: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each agent acts in a view of its own; rules, agents and students that come later are made alone."""
    agents = [
        *("tutor", "{name: sb3/ppo, options: {n_steps: 4}}", "{name: sb3/dqn, options: {learning_starts: 2}}"),
        *(
            "{name: sb3/sac, label: sac, options: {learning_starts: 2}}",
            "{name: tutor, label: k, env: {mode: sequential}}",
        ),
    ]
    first = [f"agents=[{','.join(agents[:4])}]", "trainings=1", "rules=[teacher_samples]"]
    assert run("tutor", words(tiny_text, tmp_path, *first, "save_students=1"), "") == 0
    folder = tmp_path / "study"
    names = ["tutor-seed0", "sb3-ppo-seed0", "sb3-dqn-seed0", "sac-seed0"]
    data = results(folder)
    assert list(data["tutors"]) == [*names, "teacher_samples"]
    assert set(data["differences"]["reward"]["sac"]) == {"tutor", "sb3-ppo", "sb3-dqn", "teacher_samples"}
    actions = [json.loads((folder / name / "agent.json").read_text())["spaces"]["action"] for name in names[1:]]
    assert [action["kind"] for action in actions] == ["MultiDiscrete", "Discrete", "Box"]
    assert all((folder / f"{name}.jsonl").read_text().count("timesteps") for name in names)
    assert not list(folder.glob("*/replay.safetensors"))

    calls: list[list[str]] = []
    real = evaluate_tutors

    def spied(problem: Any, tutors: Any, seeds: Any, **options: Any) -> Any:
        calls.append(list(tutors))
        return real(problem, tutors, seeds, **options)

    monkeypatch.setattr(tutoring, "evaluate_tutors", spied)
    trained = {name: (folder / name / "agent.json").stat().st_mtime_ns for name in names}
    again = [first[0], "trainings=1"]
    assert run("tutor", words(tiny_text, tmp_path, *again, "save_students=1"), "") == 0
    assert calls == [["random_tokens"]]
    after = results(folder)
    assert all(after["tutors"][name] == data["tutors"][name] for name in data["tutors"])
    more = [f"agents=[{','.join([agents[0], agents[4]])}]", "trainings=1"]
    assert run("tutor", words(tiny_text, tmp_path, *more, "save_students=1"), "") == 0
    assert calls[1:] == [["k-seed0"]]
    assert run("tutor", words(tiny_text, tmp_path, *again, "save_students=2"), "") == 0
    assert calls[2:] == [[*names, "teacher_samples", "random_tokens"]]
    assert results(folder)["tutors"] == after["tutors"], "judged again it is the same, sampled or not"
    assert {name: (folder / name / "agent.json").stat().st_mtime_ns for name in names} == trained


def test_students_are_kept_and_read_by_transformers(tiny_text: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    more = ["trainings=1", "rules=[keep_masked]", "save_students=2"]
    assert run("tutor", words(tiny_text, tmp_path, *more), "") == 0
    folder = tmp_path / "study" / "students"
    assert {path.name for path in folder.iterdir()} == {"none", "tutor-seed0", "keep_masked"}
    plain = {key: value for key, value in tiny_text.items() if key != "optimizer"}
    env = TutorVectorEnv(2, **plain, reward="gap_closed", action_view="box")  # a start does not depend on the decision
    env.reset(seed=[10000, 10001])
    params = env.run.started().params
    loaded = {}
    for path in sorted(folder.glob("*/seed*")):
        state = AutoModelForTokenClassification.from_pretrained(path).state_dict()
        assert len(AutoTokenizer.from_pretrained(path)) == env.vocab_size
        loaded[f"{path.parent.name}/{path.name}"] = state
    assert len(loaded) == 6
    for replica in range(2):
        start = loaded[f"none/seed{10000 + replica}"]
        assert set(params) - set(start) == {PROJECTION}
        assert all(torch.equal(start[name], values[replica]) for name, values in params.items() if name in start)
        for taught in ("tutor-seed0", "keep_masked"):
            state = loaded[f"{taught}/seed{10000 + replica}"]
            assert state.keys() == start.keys()
            assert any(not torch.equal(state[name], start[name]) for name in state)


def test_an_interrupt_leaves_what_is_finished(
    tiny_text: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learn, begun = Tutor.learn, []

    def stopped(self: Tutor, *args: Any, **options: Any) -> Tutor:
        begun.append(self.seed)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return learn(self, *args, **options)

    monkeypatch.setattr(Tutor, "learn", stopped)
    assert run("tutor", words(tiny_text, tmp_path), "kd-env tutor") == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "study").glob("tutor-*")) == ["tutor-seed0", "tutor-seed0.jsonl"]
    real, calls = tutoring._one, list[str]()

    def stopped_too(judged: Any, env: Any, tutor: Any, seeds: Any, name: str, progress: Any) -> Any:
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(judged, env, tutor, seeds, name, progress)

    monkeypatch.setattr(tutoring, "_one", stopped_too)
    assert run("tutor", words(tiny_text, tmp_path), "kd-env tutor") == 130
    assert begun == [0, 100, 100]
    assert run("tutor", words(tiny_text, tmp_path), "kd-env tutor") == 0
    assert begun == [0, 100, 100] and calls == [
        "tutor-seed0",
        *["tutor-seed100"] * 2,
        "teacher_samples",
        "random_tokens",
    ]


def test_every_algorithm_gets_a_view_that_it_can_take() -> None:
    names = ("tutor", "actor_critic", *(f"sb3/{name}" for name in ALGORITHMS))
    found = {name: job._view(Entry(name, name, {}, {}), {}) for name in names}
    assert found.pop("tutor") == {"action_view": "native", "observation": "dict"}
    assert all(view.pop("observation") == "flat" for view in found.values())
    views = {label: view["action_view"] for label, view in found.items()}
    assert {label for label, view in views.items() if view == "box"} == {
        f"sb3/{n}" for n in ("sac", "td3", "ddpg", "tqc", "crossq")
    }
    assert {label for label, view in views.items() if view == "discrete"} == {
        f"sb3/{n}" for n in ("dqn", "qrdqn", "ars")
    }
    own = Entry("sb3/ppo", "a", {}, {"action_view": "box"})
    assert job._view(own, {"action_view": "discrete"}) == {"action_view": "box", "observation": "flat"}
    assert job._view(Entry("tutor", "b", {}, {}), {"action_view": "candidates"})["action_view"] == "candidates"


def test_contenders_may_differ_in_the_decision_alone(tutor_problem: Any, tiny_text: dict[str, Any]) -> None:
    class First:
        def predict(self, observation: Any, state: Any, episode_start: Any) -> tuple[Any, Any]:
            return np.zeros(len(observation), dtype=np.int64), state

    def make(env: TutorVectorEnv) -> First:
        assert env.action_view == "discrete" and env.single_observation_space.shape is not None
        return First()

    def best(env: TutorVectorEnv) -> Any:
        return make_rule("teacher_argmax", env)

    own = with_tutor_options(tutor_problem, action_view="discrete", observation="flat")
    found = evaluate_tutors(tutor_problem, {"flat": Contender(make, own), "native": best}, [7, 8])
    for name in ("reward", "plausibility", "teacher_probability", "dev_loss"):
        np.testing.assert_allclose(getattr(found["flat"], name), getattr(found["native"], name), rtol=1e-9)
    with pytest.raises(ValueError, match="budget=2 and the others with 4"):
        evaluate_tutors(tutor_problem, {"a": Contender(make, with_tutor_options(tutor_problem, budget=2))}, [7])
    other = build_tutor_problem(TutorConfig.from_kwargs(**tiny_text))
    with pytest.raises(ValueError, match="'a' has other text or models"):
        evaluate_tutors(tutor_problem, {"a": Contender(make, other)}, [7])


def test_text_comes_from_one_source_or_several(tiny_text: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    lines = [f"w{index} w{index + 1} w{index + 2} w39 w38" for index in range(30)]
    (tmp_path / "more" / "lines.txt").write_text("\n".join(lines))
    both = [tiny_text["text"], str(tmp_path / "more")]
    config = TutorConfig.from_kwargs(**{**tiny_text, "text": both})
    assert config.text == tuple(both) and TutorConfig.from_kwargs(**config.to_dict()) == config
    problem, one = build_tutor_problem(config), build_tutor_problem(TutorConfig.from_kwargs(**tiny_text))
    assert len(problem.train) > len(one.train) and problem.fingerprint != one.fingerprint
    assert len(with_dev_rows(problem, 500).feedback) > len(with_dev_rows(one, 500).feedback)
    assert problem.assets.saw_feedback == "unknown"
    assert with_tutor_options(problem, budget=2).config.text == tuple(both)
    assert run("tutor", words(tiny_text, tmp_path, "trainings=1", "rules=null", text=f"[{','.join(both)}]"), "") == 0


def test_rows_of_a_task_are_edited_and_judged_by_its_labels(
    tiny: dict[str, Any], tiny_text: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    env = {name: tiny[name] for name in ("task", "data_dir", "columns", "feedback_rows", "selection_rows")}
    env |= {
        "teacher": tiny["teacher"],
        "language_model": tiny_text["teacher"],
        "slots": 2,
        "batch_size": 4,
        "budget": 4,
    }
    joined = json.dumps({**env, "student": {"hidden_size": 8, "num_attention_heads": 2}})
    more = [f"env={joined}", "trainings=1", "rules=[keep_masked]", "save_students=1"]
    for _ in range(2):  # the second reads what the first has written
        assert run("tutor", words(tiny_text, tmp_path, *more), "") == 0
        data = results(tmp_path / "study")
        for values in data["tutors"].values():
            assert np.shape(values["accuracy"]) == (3,) and all(0 <= value <= 1 for value in values["accuracy"])
        assert {"reward", "dev_gap_closed", "accuracy"} <= set(data["differences"])
    assert "cross-entropy on dev rows" in (tmp_path / "study" / "results.md").read_text()
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "study/students/tutor-seed0/seed10000")
    assert student.config.num_labels == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (["toy", "toy_pair"], r"comes without a teacher; .*objective=mlm text=\[toy,toy_pair\]"),
        ([], "text is empty"),
        (["toy", 3], "text entry=3"),
        (3, "text=3 must be a list"),
    ],
)
def test_texts_that_do_not_fit_are_told(text: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_tutor_problem(TutorConfig.from_kwargs(text=text))


def test_one_embedded_source_in_a_list_has_its_teacher() -> None:
    from kd_env.decisions.tutor_token.corpus import packaged_teacher

    assert packaged_teacher(("toy",)) == packaged_teacher("toy")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainings=0", "at least 1"),
        ("save_students=11", "more than the evaluation_seeds=10"),
        ("rules=[teacher_sample]", "Did you mean 'teacher_samples'"),
        ("agent={kl_coeff: 1}", "Did you mean 'kl_coef'"),
        ("env={bugdet: 1}", "Did you mean 'budget'"),
        ("agent=3", "options by name"),
        ("agents=[]", "names none"),
        ("agents=[3]", "write a name"),
        ("agents=[sb3/poo]", "Did you mean 'sb3/ppo'"),
        ("agents=[rule/all]", "learns nothing"),
        ("agents=[tutor,tutor]", "no other tutor has"),
        ("agents=[{name: tutor, label: none}]", "no other tutor has"),
        ("agents=[{name: tutor, optoins: {}}]", "Did you mean 'options'"),
        ("agents=[{name: tutor, env: {budget: 2}}]", "set them for all"),
        ("agents=[{name: sb3/ppo, options: {lerning_rate: 1}}]", "Did you mean 'learning_rate'"),
        ("agents=[{name: sb3/dqn, env: {action_view: box}}]", "takes only Discrete"),
        ("agents=[teacher_selector]", "The agent teacher_selector: "),
        ("agents=[{name: sb3/sac, options: {learning_starts: 3200}}]", "nothing would be learned"),
        ("trainngs=3", "Did you mean 'trainings'"),
        ("recipe=papr", "Did you mean 'paper'"),
        ("recipe=paper", "student.dropout=0.1 needs single environments"),
        ("first_evaluation_seed=50", "lie among those"),
        ("name=a/b", "plain folder name"),
        ("env={action_view: box}", "action_view='native' or 'candidates'"),
    ],
)
def test_mistakes_are_told_before_any_work(
    word: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["protocol=frozen", *([] if word.startswith("name") else ["name=x"]), f"runs_dir={tmp_path}"]
    assert run("tutor", [word, *more], "") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_hyper_parameters_of_a_tutor_that_is_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="leaves out"):
        read_agents(["sb3/ppo"], {"kl_coef": 0.1})
    two = [{"name": "tutor", "options": {"kl_coef": 1.0}}, {"name": "tutor", "label": "b"}]
    first, second = read_agents(two, {"kl_coef": 0.1})
    assert (first.options, second.options) == ({"kl_coef": 1.0}, {"kl_coef": 0.1})
