"""Training processes come warm from one server, and are as separate as processes that were started."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from fedllm.agent import limits
from fedllm.agent.job import Event, Failed, Finished, Job, StepDone
from fedllm.agent.limits import TOO_MUCH
from fedllm.agent.trainers import ChildTrainer
from fedllm.agent.warm import server_address, share_server, warm_context
from fedllm.config import FederationConfig, LocalConfig
from fedllm.data.prepare import PreparedData
from fedllm.data.records import write_records
from fedllm.models.base import resolve_base
from fedllm.protocol.terms import PrivateTerms
from fedllm.simulation import agent_processes
from tests.agent.played import ADAPTER, SEED, WIDE, Global, start_of

pytestmark = pytest.mark.servers

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def until(what: Callable[[], Any], seconds: float = 120.0) -> Any:  # noqa: ANN401 - what it comes to
    ends = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.01)
    return found


@pytest.fixture
def job(config: FederationConfig, model: Global, tmp_path: Path) -> Job:
    data, start = tmp_path / "site.jsonl", tmp_path / "start.model"
    labels = ("positive", "negative")
    write_records(data, [{"text": f"{label} {n}", "label": label} for n in range(4) for label in labels])
    start.write_bytes(model.flat)
    return Job(
        base=resolve_base("tiny"),
        data=data,
        model=start,
        output=tmp_path / "update",
        next_residual=tmp_path / "residual",
        adapter=ADAPTER,
        adapter_seed=SEED,
        layout_sha256=model.layout_sha256,
        frozen_sha256=model.frozen_sha256,
        task=config.task,
        local=LocalConfig(lr=0.02, steps=2, batch_size=2),
        steps=2,
        round=1,
        rounds=3,
        seed=1,
        threads=1,
    )


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[ChildTrainer]:
    child = ChildTrainer(tmp_path / "site.log")
    yield child
    child.cancel()


def ended(trainer: ChildTrainer) -> Event:
    event: Event = until(
        lambda: None if isinstance(found := trainer.poll(), StepDone) else found,
    )
    return event


def _look(pipe: "Connection[Any, Any]") -> None:
    """In a forked process: whether all is loaded and nothing else set up, and the server's threads."""
    loaded = {"torch", "peft", "opacus", "transformers"} <= sys.modules.keys()
    pipe.send((loaded and not logging.root.handlers, psutil.Process(os.getppid()).num_threads()))
    pipe.poll(10)  # be there until whoever asked is done


def test_what_training_needs_is_loaded_by_a_server_without_a_second_thread() -> None:
    mine, theirs = (context := warm_context()).Pipe()
    child = context.Process(target=_look, args=(theirs,))
    child.start()
    theirs.close()
    assert mine.recv() == (True, 1)
    mine.close()
    child.join()


def _ask(pipe: "Connection[Any, Any]", server: str | None) -> None:
    """In a forked process, as a simulated site's agent: start a process from the server of both."""
    share_server(server)
    mine, theirs = (context := warm_context()).Pipe()
    child = context.Process(target=_look, args=(theirs,))
    child.start()
    theirs.close()
    pipe.send((*mine.recv(), os.getppid() == psutil.Process(child.pid).ppid()))
    mine.close()
    child.join()


def test_what_a_simulated_agent_starts_comes_from_the_server_of_all_agents() -> None:
    mine, theirs = (context := warm_context()).Pipe()
    agent = context.Process(target=_ask, args=(theirs, server_address()))
    agent.start()
    theirs.close()
    assert mine.recv() == (True, 1, True)
    agent.join()


def test_a_job_is_trained_and_its_update_written(trainer: ChildTrainer, job: Job) -> None:
    trainer.start(job)
    assert isinstance(ended(trainer), Finished)
    assert job.output.is_file()


def test_what_goes_wrong_is_told_in_the_sites_own_log_alone(
    trainer: ChildTrainer, job: Job, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job.data.write_text('{"text": "a secret", "label": "unheard of"}\n')
    trainer.start(job)
    failed = ended(trainer)
    assert isinstance(failed, Failed)
    assert "unheard of" not in failed.reason
    assert "unheard of" in (tmp_path / "site.log").read_text()
    assert "unheard of" not in "".join(capfd.readouterr())


def test_a_process_that_was_killed_says_so_and_the_next_job_gets_another(
    trainer: ChildTrainer, job: Job
) -> None:
    trainer.start(job)
    first = trainer.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert ended(trainer) == Failed("the training process died", died=True)
    trainer.start(job)
    assert trainer.pid not in {None, first}
    assert isinstance(ended(trainer), Finished)


def test_what_needs_more_memory_than_it_may_have_fails_and_the_next_job_finds_nothing_of_it(
    job: Job, tmp_path: Path
) -> None:
    child = ChildTrainer(tmp_path / "site.log", memory=640 << 20)
    try:
        write_records(tmp_path / "many.jsonl", [{"text": "", "label": "positive"}] * 300)
        start = start_of(WIDE)
        (tmp_path / "wide.model").write_bytes(start.flat)
        wide = replace(
            job,
            data=tmp_path / "many.jsonl",
            model=tmp_path / "wide.model",
            adapter=WIDE,
            layout_sha256=start.layout_sha256,
            frozen_sha256=start.frozen_sha256,
            privacy=PrivateTerms("record", sampling_rate=1.0, noise_multiplier=1.5, clip=0.5),
        )
        child.start(wide)
        assert ended(child) == Failed(TOO_MUCH)
        assert child.pid is None
        child.start(job)
        assert isinstance(ended(child), Finished)
    finally:
        child.cancel()


def test_where_the_kernel_holds_no_limit_the_process_that_has_too_much_is_ended(
    trainer: ChildTrainer, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.start(job)  # without a limit of the kernel's
    process = psutil.Process(trainer.pid)
    monkeypatch.setattr(limits, "KERNEL_HOLDS", False)
    monkeypatch.setattr(trainer, "_memory", 1 << 20)
    assert ended(trainer) == Failed(TOO_MUCH)
    assert not process.is_running()


def test_a_training_process_ends_with_the_agent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "agent.py"
    script.write_text(
        textwrap.dedent("""
        import time
        from fedllm.agent.trainers import ChildTrainer
        if __name__ == "__main__":
            trainer = ChildTrainer()
            trainer.start(None)  # no job that can be done: the process waits for a better one
            print(trainer.pid, flush=True)
            time.sleep(600)
        """)
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        child = psutil.Process(int(agent.stdout.readline()))
        server = child.parent()
        agent.kill()
    assert server is not None
    until(lambda: not child.is_running())
    until(lambda: not server.is_running())


@pytest.fixture
def simulated(config: FederationConfig, job: Job) -> tuple[FederationConfig, PreparedData]:
    """Two sites that join a federation whose store is a folder."""
    told = config.model_dump(mode="json") | {"name": "seats"}
    told["simulation"] = {"source": str(job.data), "sites": ["east", "west"]}
    return FederationConfig.model_validate(told), PreparedData({"east": job.data, "west": job.data}, job.data)


def test_simulated_agents_are_processes_of_their_own_and_none_has_the_coordinators_passwords(
    simulated: tuple[FederationConfig, PreparedData], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data = simulated
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:secret")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    with agent_processes(config, data) as agents:
        # Each gives itself its name once it runs.
        until(lambda: [agent.name() for agent in agents.values()] == ["agent east", "agent west"], 20)
        assert len({os.getpid(), *(agent.pid for agent in agents.values())}) == 3
        for agent in agents.values():
            line = [agent, *agent.parents()]
            seen = line[: line.index(psutil.Process(os.getpid()))]
            assert len(seen) == 3  # itself, the server that it was forked from, and their host
            names = [name for process in seen for name in process.environ()]
            assert not [name for name in names if name.startswith(("PREFECT_", "MLFLOW_"))]
            # Forking is safe from a process of one thread; this one holds the weights of the base as well.
            assert seen[1].num_threads() == 1
            weights = str(resolve_base(config.model.base) / "model.safetensors")
            assert weights in {area.path for area in seen[1].memory_maps()}
    assert not any(agent.is_running() for agent in agents.values())


def test_simulated_agents_end_when_their_host_is_killed(
    simulated: tuple[FederationConfig, PreparedData],
) -> None:
    with suppress(BrokenPipeError), agent_processes(*simulated) as agents:
        host = agents["east"].parents()[1]
        assert "fedllm.agent.host" in host.cmdline()
        host.kill()
        until(lambda: not any(agent.is_running() for agent in agents.values()))


def test_an_agent_that_cannot_begin_says_why_in_its_own_log(
    simulated: tuple[FederationConfig, PreparedData], tmp_path: Path
) -> None:
    config, data = simulated
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"no weights")
    config = config.model_copy(update={"model": config.model.model_copy(update={"base": str(base)})})
    log = tmp_path / "home" / "simulated" / "seats" / "east" / "agent.log"
    with agent_processes(config, data) as agents:
        until(lambda: not agents["east"].is_running())
    assert "model.safetensors: its header cannot be read" in log.read_text()
