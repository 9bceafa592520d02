"""Real worker processes: two give what one gives, an interrupted one goes on to the same bytes, and none is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from srpo_core.checkpoints import list_checkpoints
from srpo_core.errors import InputError
from srpo_core.workers.dispatch import do_job
from srpo_core.workers.generate import finished_files
from srpo_core.workers.jobs import GenerateJob, JobFile, PreferenceJob, ReferenceJob
from srpo_core.workers.parts import read_rows, write_part
from storage.schemas import PROMPTS, REFERENCE
from tasks import launch
from tests.small_training import (
    SETTINGS_OF_CHAINS,
    cpu,
    pair_rows,
    prompt_rows,
    resources,
    save_policy,
    settings,
    write_pairs,
)
from tests.tasks.test_launch import family, living
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[1]
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")


def jobs_in(folder: Path, *, num_steps: int = 6) -> tuple[ReferenceJob, PreferenceJob, GenerateJob]:
    """A reference pass, a training against made-up reference rows, and generation, each in a folder of its own."""
    policy = save_policy(folder / "policies/base/model")
    rows = pair_rows(12)
    preferences = write_pairs(folder / "preferences.parquet", rows)
    write_part(folder / "prompts.parquet", prompt_rows(5), PROMPTS)
    numbers = {name: -60.0 for name in REFERENCE.names if name.startswith("logp")} | {
        "token_hash": "",
        "num_tokens_a": 1,
        "num_tokens_b": 1,
    }
    write_part(folder / "rows.parquet", [{"pair_id": row["pair_id"], **numbers} for row in rows], REFERENCE)
    for name in ("store", "policies/srpo", "completions"):
        (folder / name).mkdir(parents=True)
    shared = {"model_folder": str(policy), "dtype": "float32"}
    return (
        ReferenceJob(
            name="reference", layout="trie", preferences=preferences, splits=["train"], store=str(folder / "store"), **shared
        ),
        PreferenceJob(
            name="srpo",
            preferences=preferences,
            left_out=[],
            reference=[str(folder / "rows.parquet")],
            settings=settings(num_steps=num_steps, layout="trie", learning_rate=1e-4),
            folder=str(folder / "policies/srpo"),
            **shared,
        ),
        GenerateJob(
            name="generate",
            policy_id="p",
            prompts=[str(folder / "prompts.parquet")],
            settings=SETTINGS_OF_CHAINS,
            folder=str(folder / "completions"),
            **shared,
        ),
    )


def log_of(folder: Path) -> dict[tuple[int, str], float]:
    rows = pq.read_table(folder / "training_log.parquet").to_pylist()
    return {(row["step"], row["name"]): row["value"] for row in rows if row["name"] != "tokens_per_second"}


def reference_rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["token_hash"]: row for row in read_rows([str(path) for path in (folder / "store").glob("part-*.parquet")])}


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    """A real `accelerate launch` with gloo against the same jobs in this process: reference rows, trajectory, texts."""
    one, two = jobs_in(tmp_path / "one"), jobs_in(tmp_path / "two")
    for job in one:
        do_job(job, cpu(), resources())
    launch.run_jobs("train", two, resources(num_processes=2), tmp_path / "two/run")
    writers = {path.stem.rsplit("-", 1)[1] for path in (tmp_path / "two/store").glob("part-*.parquet")}
    assert len(writers) == 2, "both processes worked"
    expected, found = reference_rows(tmp_path / "one"), reference_rows(tmp_path / "two")
    assert expected.keys() == found.keys() and len(found) == 12
    for key, row in expected.items():
        assert found[key] == {name: pytest.approx(value, abs=1e-4) for name, value in row.items() if name != "token_hash"} | {
            "token_hash": key
        }
    logs = [log_of(tmp_path / name / "policies/srpo") for name in ("one", "two")]
    assert logs[0].keys() == logs[1].keys()
    assert not {
        key: (value, logs[1][key]) for key, value in logs[0].items() if value != pytest.approx(logs[1][key], rel=2e-3, abs=2e-3)
    }
    weights = [load_file(tmp_path / name / "policies/srpo/model/model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0, atol=5e-5)
    texts = [
        {row["completion_id"]: row for row in read_rows(finished_files(tmp_path / name / "completions"))}
        for name in ("one", "two")
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 5 * 2 * 3


PARENT = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from srpo_core.workers.jobs import JobFile
from tasks import launch
asked = JobFile.model_validate_json(Path({jobs!r}).read_text())
launch.run_jobs("train", asked.jobs, asked.resources, Path({folder!r}))
"""


def start_parent(jobs: list[Any], folder: Path, **spread: Any) -> "subprocess.Popen[bytes]":
    """A process that runs the jobs as a task would."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "asked.json"
    file.write_text(JobFile(jobs=jobs, resources=resources(**spread)).model_dump_json())
    script = PARENT.format(root=str(ROOT), jobs=str(file), folder=str(folder))
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=_hear_interrupts
    )


def _hear_interrupts() -> None:
    """A shell starts what it runs in the background deaf to Ctrl-C, the tests and their children included."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def steps_begun(folder: Path) -> Callable[[], bool]:
    return lambda: (folder / "output.log").exists() and '"unit": "steps"' in (folder / "output.log").read_text()


def test_interrupted_training_leaves_a_checkpoint_and_no_process_and_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """Ctrl-C in the parent while a real worker trains; then the job is done again and compared with one that ran through."""
    steps = 300
    _, whole, _ = jobs_in(tmp_path / "whole", num_steps=steps)
    _, job, _ = jobs_in(tmp_path / "pieces", num_steps=steps)
    parent = start_parent([job], tmp_path / "run")
    wait_for(steps_begun(tmp_path / "run"), 60)
    processes = family(parent.pid)
    assert len(processes) == 2
    began = time.monotonic()
    parent.send_signal(signal.SIGINT)
    parent.wait(launch.GRACE_SECONDS)
    assert time.monotonic() - began < launch.GRACE_SECONDS and not living(processes)
    (checkpoint,) = list_checkpoints(Path(job.folder))
    assert 0 < int(checkpoint.name.removeprefix("step-")) < steps, "the interrupt came in the middle"
    assert not (Path(job.folder) / "result.json").exists()
    for one in (whole, job):
        do_job(one, cpu(), resources())
    files = {path.name for path in (Path(whole.folder) / "model").iterdir()}
    for name in files:
        assert (Path(whole.folder) / "model" / name).read_bytes() == (Path(job.folder) / "model" / name).read_bytes(), name
    assert log_of(Path(whole.folder)) == log_of(Path(job.folder))


def test_a_real_workers_refusal_arrives_as_one_sentence(tmp_path: Path) -> None:
    _, job, _ = jobs_in(tmp_path)
    missing = job.model_copy(update={"model_folder": str(tmp_path / "nothing")})
    with pytest.raises(InputError, match=r"^expected a tokenizer in .*nothing, found none that loads [^\n]*; save one there$"):
        launch.run_jobs("train", [missing], resources(), tmp_path / "run")


@linux_only
@pytest.mark.slow
def test_killing_the_launcher_of_two_processes_leaves_none_of_them(tmp_path: Path) -> None:
    """SIGKILL to `accelerate launch` itself: its ranks are told by the kernel, stop after their step and leave a checkpoint."""
    _, job, _ = jobs_in(tmp_path, num_steps=100_000)
    parent = start_parent([job], tmp_path / "run", num_processes=2)
    wait_for(steps_begun(tmp_path / "run"), 90)
    _, launcher, *ranks = processes = family(parent.pid)
    assert len(ranks) == 2
    os.kill(launcher.pid, signal.SIGKILL)
    assert parent.wait(60) == 1
    assert not living(processes) and list_checkpoints(Path(job.folder))


@linux_only
@pytest.mark.slow
def test_interrupting_two_processes_leaves_a_checkpoint(tmp_path: Path) -> None:
    _, job, _ = jobs_in(tmp_path, num_steps=100_000)
    parent = start_parent([job], tmp_path / "run", num_processes=2)
    wait_for(steps_begun(tmp_path / "run"), 90)
    processes = family(parent.pid)
    parent.send_signal(signal.SIGINT)
    parent.wait(2 * launch.GRACE_SECONDS)
    assert len(processes) == 4 and not living(processes) and list_checkpoints(Path(job.folder))
    assert "stopped after step" in (tmp_path / "run/output.log").read_text()
    assert json.loads((tmp_path / "run/jobs.json").read_text())["resources"]["num_processes"] == 2
