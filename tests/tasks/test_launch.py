"""Launching workers: their sentences arrive, their crashes show, and nothing is left running, whatever ends whom."""

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from srpo_core.errors import InputError, WorkFailed
from srpo_core.workers.jobs import GenerateJob, JobFile
from srpo_core.workers.progress import MARK
from tasks import launch
from tests.small_training import SETTINGS_OF_CHAINS, resources
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")


def any_job(folder: Path) -> GenerateJob:
    return GenerateJob(
        name="job",
        model_folder="/nowhere",
        dtype="float32",
        policy_id="p",
        prompts=[],
        settings=SETTINGS_OF_CHAINS,
        folder=str(folder),
    )


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a Python script in the place of the worker."""

    def use(script: str) -> None:
        code = f"import json, os, signal, subprocess, sys, time\nMARK = {MARK!r}\n" + textwrap.dedent(script)
        monkeypatch.setattr(launch, "_command", lambda resources, job_file: [sys.executable, "-c", code, str(job_file)])

    return use


def run(folder: Path) -> None:
    launch.run_jobs("train", [any_job(folder)], resources(), folder)


def family(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it."""
    leader = psutil.Process(pid)
    return [leader, *leader.children(recursive=True)]


def living(processes: list[psutil.Process]) -> list[str]:
    """What is left of them in the process table."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:200])
    return found


# --- what a worker says --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "error"), [(2, InputError), (1, WorkFailed)])
@pytest.mark.parametrize("launcher_status", [None, 1], ids=["one process", "behind a launcher"])
def test_a_workers_sentence_arrives_as_its_error(
    tmp_path: Path, worker: Any, status: int, error: type[Exception], launcher_status: int | None
) -> None:
    """A launcher of several processes turns every status into 1; the sentence keeps its own."""
    line = json.dumps({"failure": "expected a cat, found a dog at 3", "status": status})
    worker(f"print('noise'); print(MARK + {line!r}); print('more noise'); sys.exit({launcher_status or status})")
    with pytest.raises(error, match="^expected a cat, found a dog at 3$"):
        run(tmp_path)


def test_a_crash_is_one_sentence_with_the_last_line_and_the_lines_before_in_the_log(
    tmp_path: Path, worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    worker("for i in range(40): print('line', i)\nraise ZeroDivisionError('in the worker')")
    wanted = r"^train: the worker ended with status 1; its last line was: ZeroDivisionError: in the worker \(all .*output.log\)$"
    with pytest.raises(WorkFailed, match=wanted), caplog.at_level(logging.ERROR, "srpo"):
        run(tmp_path)
    (tail,) = [message for message in caplog.messages if "the last lines of" in message]
    assert "line 39" in tail and "line 20" not in tail


def test_a_killed_worker_is_a_failure_that_names_the_likely_cause(tmp_path: Path, worker: Any) -> None:
    worker("os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(WorkFailed, match=r"^train: the worker was ended by SIGKILL, .* short of memory; .*output.log\)$"):
        run(tmp_path)


def test_progress_reaches_the_log_also_where_two_processes_wrote_at_once(
    tmp_path: Path, worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    worker(
        """
        rest = {"job": "sft", "total": 2, "unit": "steps", "values": {"loss": 0.5}}
        def line(done): return MARK + json.dumps(rest | {"done": done})
        print(line(1)); print(MARK + '{"job": "sft", "do@srpo {"jo'); print(line(2), flush=True)
        """
    )
    with caplog.at_level(logging.INFO, "srpo"):
        run(tmp_path)
    assert any("sft step 2/2" in message and "loss 0.5" in message for message in caplog.messages)


def test_the_next_attempt_keeps_the_log_and_reads_its_own_lines_only(tmp_path: Path, worker: Any) -> None:
    worker(f"print(MARK + {json.dumps({'failure': 'old', 'status': 2})!r}); sys.exit(2)")
    with pytest.raises(InputError, match="old"):
        run(tmp_path)
    worker("print('fine')")
    run(tmp_path)
    assert (tmp_path / "output.log").read_text().count("\n") == 2


def test_the_job_file_says_everything(tmp_path: Path, worker: Any) -> None:
    worker("open(sys.argv[1] + '.seen', 'w').write(open(sys.argv[1]).read())")
    run(tmp_path)
    read = JobFile.model_validate_json((tmp_path / "jobs.json.seen").read_text())
    assert read == JobFile(jobs=[any_job(tmp_path)], resources=resources())


def test_nothing_to_do_starts_nothing(tmp_path: Path, worker: Any) -> None:
    worker("sys.exit(9)")
    launch.run_jobs("train", [], resources(), tmp_path / "none")
    assert not (tmp_path / "none").exists()


# --- how it is started ---------------------------------------------------------------------------------------------------


def test_several_processes_and_accelerate_configs_go_through_the_launcher() -> None:
    file = Path("jobs.json")
    assert launch._command(resources(), file)[1:] == ["-m", "srpo_core.workers", "jobs.json"]
    two = launch._command(resources(num_processes=2), file)
    assert "accelerate.commands.launch" in two and two[two.index("--num_processes") + 1] == "2" and "--multi_gpu" in two
    own = launch._command(resources(accelerate_config="srpo_core/accelerate/fsdp.yaml", num_processes=4), file)
    config = Path(own[own.index("--config_file") + 1])
    assert config.is_absolute() and config.name == "fsdp.yaml" and "--num_processes" not in own
    with pytest.raises(InputError, match="accelerate config file at mine.yaml, found none"):
        launch._command(resources(accelerate_config="mine.yaml"), file)


def test_processes_on_a_cpu_meet_on_the_loopback_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_gpus", list)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert launch._environment(resources())["GLOO_SOCKET_IFNAME"] == "lo"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth1")
    assert launch._environment(resources())["GLOO_SOCKET_IFNAME"] == "eth1"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setattr(launch, "_gpus", lambda: [Path("/dev/nvidia0")])
    assert "GLOO_SOCKET_IFNAME" not in launch._environment(resources())
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(launch, "_gpus", list)
    assert "GLOO_SOCKET_IFNAME" not in launch._environment(resources())


def test_shipped_accelerate_configs_parse() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    configs = {path.stem: load_config_from_file(str(path)) for path in sorted((ROOT / "srpo_core/accelerate").glob("*.yaml"))}
    assert {name: str(config.distributed_type.value) for name, config in configs.items()} == {
        "deepspeed_zero2": "DEEPSPEED",
        "deepspeed_zero3": "DEEPSPEED",
        "fsdp": "FSDP",
    }
    assert [configs[f"deepspeed_zero{stage}"].deepspeed_config["zero_stage"] for stage in (2, 3)] == [2, 3]
    assert configs["deepspeed_zero3"].deepspeed_config["zero3_save_16bit_model"] is True, "else the weights cannot be gathered"
    assert configs["fsdp"].fsdp_config["fsdp_version"] == 2
    assert {config.mixed_precision for config in configs.values()} == {"no"}, "precision is the model's dtype setting"


# --- how it ends ---------------------------------------------------------------------------------------------------------

STUBBORN = """
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(120)"
child = subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(MARK + json.dumps({"job": "j", "done": 1, "total": 2, "unit": "steps", "values": {}}), flush=True)
time.sleep(120)
"""


def test_an_interrupt_ends_the_whole_family_also_what_ignores_sigterm(
    tmp_path: Path, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child is in a session of its own, as the ranks of a launcher are, and does not listen."""
    started: list[psutil.Process] = []
    popen = subprocess.Popen

    def remember(*arguments: Any, **options: Any) -> Any:
        process = popen(*arguments, **options)
        started.append(psutil.Process(process.pid))
        return process

    def interrupt(*_: Any) -> None:
        started.extend(started[0].children(recursive=True))
        raise KeyboardInterrupt

    worker(STUBBORN)
    monkeypatch.setattr(launch, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(launch.subprocess, "Popen", remember)
    monkeypatch.setattr(launch.ProgressDisplay, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert len(started) == 2 and not living(started)


@linux_only
def test_a_worker_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    """The parent is ended by SIGKILL, which it cannot pass on; the kernel tells the worker."""
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tasks import launch
from tests.tasks.test_launch import any_job
from tests.small_training import resources
code = "import time; print('begun', flush=True); time.sleep(120)"
launch._command = lambda resources, job_file: [sys.executable, "-c", code]
launch.run_jobs("train", [any_job(Path({str(tmp_path)!r}))], resources(), Path({str(tmp_path)!r}))
"""
    parent = subprocess.Popen([sys.executable, "-c", script])
    wait_for(lambda: (tmp_path / "output.log").exists() and "begun" in (tmp_path / "output.log").read_text())
    processes = family(parent.pid)
    assert len(processes) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not living(processes), 10)


def test_workers_of_an_attempt_that_lost_its_parent_end_before_the_next_begins(tmp_path: Path, worker: Any) -> None:
    """Else two would write into one folder: the lease went with the parent."""
    script = "import time; print('begun', flush=True); time.sleep(120)"
    orphan = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "jobs.json")], stdout=subprocess.PIPE)
    assert orphan.stdout is not None
    assert orphan.stdout.readline() == b"begun\n"  # a process that is still starting has no arguments by which it is known
    worker("print('fine')")
    run(tmp_path)
    assert orphan.wait(1) == -signal.SIGTERM


def test_a_ctrl_c_in_the_terminal_does_not_reach_the_workers_past_this_process(tmp_path: Path, worker: Any) -> None:
    """They would end without the time for a checkpoint; a terminal signals its own session."""
    worker("open(sys.argv[1] + '.session', 'w').write(str(os.getsid(0)))")
    run(tmp_path)
    assert int((tmp_path / "jobs.json.session").read_text()) != os.getsid(0)


def test_workers_that_outlive_their_killed_launcher_are_ended_before_the_error_is_raised(tmp_path: Path, worker: Any) -> None:
    worker(
        """
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)", sys.argv[1]])
        open(sys.argv[1] + ".child", "w").write(str(child.pid))
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    with pytest.raises(WorkFailed, match="SIGKILL"):
        run(tmp_path)
    pid = int((tmp_path / "jobs.json.child").read_text())
    assert not psutil.pid_exists(pid) or not living([psutil.Process(pid)])


def test_more_processes_than_the_machine_has_devices_are_refused_before_any_starts(monkeypatch):
    monkeypatch.setattr(launch.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(launch, "_gpus", list)
    launch.check_processes(resources(num_processes=4))
    with pytest.raises(InputError, match="at most 4 on this machine of 4 cores and 0 GPUs, found 5"):
        launch.check_processes(resources(num_processes=5))
    monkeypatch.setattr(launch, "_gpus", lambda: [Path(f"/dev/nvidia{index}") for index in range(8)])
    launch.check_processes(resources(num_processes=8))


@linux_only
@pytest.mark.parametrize(("launched_by", "status"), [("4711", 143), ("1", 0)])
def test_a_worker_that_process_1_has_adopted_does_not_begin(launched_by, status):
    """Its launcher was gone before it could ask to die with it; in a container the launching process may itself be process 1."""
    script = "import os; os.getppid = lambda: 1; from srpo_core.workers.__main__ import _die_with_parent; _die_with_parent()"
    environment = os.environ | {"SRPO_LAUNCHED_BY": launched_by}
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment).returncode == status
