"""Trainings on a Ray cluster of two nodes and under submitit: complete though a node is lost, refused where unfit."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.jobs import study
from cli.jobs.train import train
from cli.runs import pool
from cli.runs.backends import catalog
from cli.runs.backends.base import Child
from cli.runs.backends.ray_cluster import RayCluster
from cli.runs.backends.slurm import Limits, Slurm
from cli.runs.backends.work import run, work_of
from cli.settings.options import split_options
from kd_env import DistillVectorEnv, build_problem
from kd_env.core.clusters import connection as clusters
from kd_env.decisions.options import env_config
from kd_env.envs import make_vector

pytestmark = pytest.mark.usefixtures("undrawn")
MEMORY = 80 * 2**20
"""Bytes of a node's object store, the least that Ray takes."""
QUICKLY = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 200,
    "health_check_failure_threshold": 5,
    "health_check_timeout_ms": 5000,
}
"""How soon a node counts as lost: one that was killed answers no call, and one of a busy machine answers late."""


class TwoNodes:
    """A Ray cluster of this machine's loopback; the second node can be killed, and comes back."""

    def __init__(self) -> None:
        # Ray reads it when it is imported: without it nodes listen where other machines reach them.
        os.environ.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_USAGE_STATS_ENABLED="0")
        from ray.cluster_utils import Cluster

        own = {"num_cpus": 1, "object_store_memory": MEMORY, "node_ip_address": "127.0.0.1"}
        self._own = own
        self.cluster = Cluster(
            initialize_head=True, head_node_args={**own, "include_dashboard": False, "_system_config": QUICKLY}
        )
        self.address: str = self.cluster.address
        self._second: Any = None

    def both(self) -> TwoNodes:
        """The cluster with its second node, also where that was killed."""
        if self._second is None:
            self._second = self.cluster.add_node(**self._own)
        return self

    def occupy_first(self) -> Callable[[], None]:
        """Take the CPU of the first node until what is given back is called."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self.cluster.head_node.node_id, soft=False)
        actor = ray.remote(threading.Event).options(num_cpus=1, scheduling_strategy=here).remote()
        ray.get(actor.is_set.remote())
        return lambda: ray.kill(actor)

    def kill(self) -> None:
        """Take the second node away, as a machine that fails."""
        self.cluster.remove_node(self._second, allow_graceful=False)
        self._second = None


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    found = TwoNodes()
    yield found
    clusters.disconnect()
    found.cluster.shutdown()


@pytest.fixture
def words(tiny: dict[str, Any], tmp_path: Path) -> list[str]:
    return [
        *("task=custom", f"task.data_dir={tiny['data_dir']}", f"teacher.path={tiny['teacher']}"),
        *("student=toy_small", "student.hidden_size=8", "task.feedback_rows=32", "task.selection_rows=32"),
        *("env.evaluation_rows=32", "env.batch_size=4", "env.budget=8", "num_envs=4", "total_timesteps=160"),
        *("evaluation.seeds=1", "evaluation.rules=[]", "checkpoint_every=16", "progress=false"),
        f"cache_dir={tmp_path}/cache",
    ]


def sleeper(name: str, folder: Path, seconds: float) -> Child:
    code = f"import os, time; print(os.getpid(), flush=True); time.sleep({seconds}); print('slept', flush=True)"
    return Child(name, ("timeit", "-n1", "-r1", code), folder / f"{name}.log")


def is_gone(process: int) -> bool:
    """Whether a process has ended, or does within some time."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def on_ray(nodes: TwoNodes, folder: Path, **changes: Any) -> RayCluster:
    options = {"jobs": None, "cpus": 1, "gpus": 0.0, "retries": 2, "address": nodes.address, **changes}
    return RayCluster(**options, folders={"runs_dir": folder})


def test_a_full_cluster_waits_and_a_study_that_is_stopped_leaves_nothing_there(
    nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pool, "SAID_AFTER", 0.2)
    monkeypatch.setattr(pool, "SAID_EVERY", 0.2)
    children = [sleeper(str(i), tmp_path, 100.0) for i in range(3)]
    said: list[str] = []

    def say(bar: object, text: str) -> None:
        said.append(text)
        if all(child.log.exists() and child.log.read_text().endswith("\n") for child in children[:2]):
            raise KeyboardInterrupt

    monkeypatch.setattr("cli.runs.shown.live.Bar.say", say)
    with on_ray(nodes.both(), tmp_path) as place, pytest.raises(KeyboardInterrupt):
        pool.run_all(children, place, shown=False)
    assert "Ray cluster: 2 nodes with 2 CPUs" in capsys.readouterr().out
    assert said[-1] == "waiting for 1 CPU each: 1 queued, 2 running"
    assert all(is_gone(int(child.log.read_text().split()[0])) for child in children[:2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.log", "1.log"]


def test_clusters_that_cannot_do_it_are_refused(
    nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(words: str, **changes: Any) -> None:
        with pytest.raises(ValueError, match=words), on_ray(nodes.both(), tmp_path, **changes):
            pass

    refused(r"No node of the Ray cluster has the 1 CPU and 1 GPU .*1 CPU, 0 GPU; 1 CPU, 0 GPU", gpus=1)
    refused("has the 4 CPU that each training", cpus=4)
    refused("No Ray cluster answers at '127.0.0.1:1'", address="127.0.0.1:1")
    with monkeypatch.context() as patch:
        patch.setattr("kd_env.__version__", "0.0.0")
        refused(r"has kd-env .*, and this one 0\.0\.0")
    monkeypatch.setattr("cli.runs.backends.shared.atomic_write", lambda path, text: None)
    refused(r"does not see .* set runs_dir=\.\.\.")


def test_a_study_is_complete_though_a_node_is_lost(
    nodes: TwoNodes, words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The node of a training is killed in its middle: it ends on the other one, with the bits of one that ran here."""
    folder = tmp_path / "far"
    lost = folder / "custom-reinforce-seed0"
    clusters.connect(nodes.both().address)
    free = nodes.occupy_first()

    def kill() -> None:
        while not (lost / "checkpoint").is_dir():
            time.sleep(0.02)
        nodes.kill()
        free()

    killer = threading.Thread(target=kill)
    killer.start()
    there = ["agents=[reinforce]", "trainings=1", f"runs_dir={tmp_path}", "name=far"]
    assert study.study([*words, *there, "backend=ray", f"ray_address={nodes.address}"], "") == folder
    killer.join()
    assert f"{lost.name} was lost (" in (said := capfd.readouterr().err) and "it goes on, 1 of 2" in said
    assert len(json.loads((folder / "comparison.json").read_text())["entries"]) == 1
    near = train([*words, "agent=reinforce", "seed=0", "threads=1", f"runs_dir={tmp_path}/near"], "")
    results = [json.loads((run / "results.json").read_text())["policies"] for run in (lost, near)]
    assert results[0] == results[1]
    policies = [(run / "policy" / "networks.safetensors").read_bytes() for run in (lost, near)]
    assert policies[0] == policies[1]


def test_replicas_on_ray_have_the_bits_of_processes(nodes: TwoNodes, tiny: dict[str, Any], tmp_path: Path) -> None:
    """Two replicas on the actors that have a place: episodes that end, states on disk, errors, and what is closed."""
    import ray

    clusters.connect(nodes.address)
    config = env_config(**{**tiny, "student": {**tiny["student"], "dropout": 0.1}}, cache_dir=str(tmp_path / "cache"))
    problem = build_problem(config)
    processes, actors = (make_vector(config, 2, kind, problem=problem) for kind in ("processes", "ray"))
    actions = np.random.default_rng(0).integers(0, 2, (9, 2, 3), dtype=np.int8)
    try:
        assert_same(processes.reset(seed=5), actors.reset(seed=5))
        for action in actions[:6]:
            assert_same(processes.step(action), actors.step(action))
        assert_same(processes.unwrapped.row_influence(), actors.unwrapped.row_influence())
        actors.unwrapped.save_state(tmp_path / "state")
        processes.unwrapped.load_state(tmp_path / "state")  # a part a replica, wherever it was
        effect = DistillVectorEnv(1, problem=problem).decision.actions.decode(actions[6])
        assert_same(processes.step(effect), actors.step(effect))
        with pytest.raises(ValueError, match="action holds 7"):
            actors.step(np.full((2, 3), 7, np.int8))
        with pytest.raises(ValueError, match="use vectorization=stacked"):
            actors.unwrapped.get_state()
        actors.unwrapped.load_state(tmp_path / "state")
        processes.unwrapped.load_state(tmp_path / "state")
        assert_same(processes.step(actions[7]), actors.step(actions[7]))
    finally:
        processes.close()
        actors.close()
    end = time.monotonic() + 20
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"] and time.monotonic() < end:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]


def assert_same(one: Any, other: Any) -> None:
    """Arrays and what holds them, to the last bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, tuple) or (isinstance(one, np.ndarray) and one.dtype == object):
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    else:
        np.testing.assert_array_equal(one, other)
        assert getattr(one, "dtype", None) == getattr(other, "dtype", None)


def under_submitit(folder: Path, **changes: Any) -> Slurm:
    limits = Limits("local", partition=None, account=None, minutes=10, memory_gb=None, options={})
    return Slurm(None, 1, 0, changes.pop("retries", 1), folder, {"runs_dir": folder}, limits._replace(**changes))


def test_jobs_end_with_their_status_and_a_lost_one_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One child fails and is not tried again; the job of another is killed once, and it starts anew."""
    once = tmp_path / "once"
    # Its parent is the process of the job.
    killed = f"import os, pathlib; p = pathlib.Path({str(once)!r}); p.exists() or (p.touch(), os.kill(os.getppid(), 9))"
    children = [
        Child(name, ("timeit", "-n1", "-r1", code), tmp_path / f"{name}.log")
        for name, code in (("good", "print('here')"), ("bad", "raise SystemExit(3)"), ("lost", killed))
    ]
    with under_submitit(tmp_path) as place:
        assert pool.run_all(children, place, shown=True) == [children[1]]
    said = capfd.readouterr().err
    assert "here" in children[0].log.read_text() and once.exists()
    assert "bad FAILED" in said and "lost finished" in said and said.count("it goes on, 1 of 1") == 1


def test_a_job_that_does_not_see_the_study_says_so(tmp_path: Path) -> None:
    child = sleeper("blind", tmp_path, 0.0)
    with under_submitit(tmp_path) as place:
        for mark in tmp_path.glob(".seen-*"):
            mark.unlink()
        assert pool.run_all([child], place, shown=False) == [child]
    assert "does not see" in child.log.read_text() and "runs_dir=..." in child.log.read_text()


def test_a_job_that_is_preempted_goes_on_and_one_that_is_cancelled_does_not(tmp_path: Path) -> None:
    code = "import os, time; print(os.getppid(), os.getpid(), flush=True); time.sleep(100)"
    child = Child("long", ("timeit", "-n1", "-r1", code), tmp_path / "long.log")

    def begun(times: int) -> list[list[int]]:
        """Ids of the jobs and their processes, once there are so many."""
        while True:
            lines = child.log.read_text().splitlines() if child.log.exists() else []
            found = [[int(word) for word in line.split()] for line in lines if re.fullmatch(r"\d+ \d+", line)]
            if len(found) == times:
                return found
            time.sleep(0.05)

    with under_submitit(tmp_path) as place:
        cell = place.start(child)
        ((job, process),) = begun(1)
        os.kill(job, signal.SIGUSR2)  # as Slurm does
        _, (job, again) = begun(2)
        assert cell.ended() is None and is_gone(process)
        place.stop([cell])
    assert is_gone(job) and is_gone(again)


def test_a_device_that_is_absent_on_a_worker_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that was given one does not run on a CPU; one that was not sees none."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    child = sleeper("device", tmp_path, 0.0)
    status, said = run(work_of(child, cpus=1, gpus=0.5, marks={}))
    assert status == 1 and "torch sees none there: device='cuda' is absent" in said and not child.log.exists()
    seen = "import os; assert (os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS']) == ('', '3')"
    assert run(work_of(child._replace(words=("timeit", "-n1", "-r1", seen)), cpus=3, gpus=0, marks={})) == (0, "")


DEFAULTS = split_options("study", [])[0]


@pytest.mark.parametrize(
    ("changes", "device", "words"),
    [
        ({"gpus": 1}, "auto", "gpus=1 is for backend=ray and backend=slurm"),
        ({"backend": "ray"}, "cuda", "device=cuda needs gpus=1"),
        ({"backend": "slurm", "gpus": 1}, "cpu", "device=cpu uses no device"),
        ({"backend": "slurm", "gpus": 0.5}, "auto", "gpus=0.5 must be a whole number"),
        ({"ray_address": "a:1"}, "auto", "ray_address='a:1' is for backend=ray, and backend=local"),
        ({"backend": "ray", "slurm_minutes": 5}, "auto", "slurm_minutes=5 is for backend=slurm, and backend=ray"),
    ],
)
def test_options_that_do_not_fit_a_backend(changes: dict[str, Any], device: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        catalog.check_backend({**DEFAULTS, **changes}, device, DEFAULTS)


@pytest.mark.parametrize(("backend", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_absent_package_is_named_with_its_extra(
    backend: str, package: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else found(name, *rest)
    )
    with pytest.raises(ValueError, match=rf'backend={backend} needs .*{package}.* pip install "kd-env\[{backend}\]"'):
        study.study([*words, f"runs_dir={tmp_path}", "trainings=1", f"backend={backend}"], "")
    assert not list(tmp_path.iterdir())


def test_slurm_itself_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with (
        pytest.raises(ValueError, match=r"no sbatch here.*slurm_cluster=local"),
        under_submitit(tmp_path, cluster="slurm"),
    ):
        pass
