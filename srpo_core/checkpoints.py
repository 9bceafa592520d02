"""Checkpoints of a training under way, `<folder>/checkpoints/step-<n>/`, and its log.

A checkpoint is written under a name that starts with a dot and renamed when it is whole. The one before stays until a later
step has shown that the new one's weights still give a finite loss, so there is always a good one to go back to.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import Accelerator

LOG_SCHEMA = pa.schema([("step", pa.int64()), ("name", pa.string()), ("value", pa.float64())])
LOG_FILE = "training_log.parquet"

LogRow = tuple[int, str, float]  # (steps done, name, value)


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted((folder / "checkpoints").glob("step-*"))


def step_of(checkpoint: Path) -> int:
    """How many steps had been done."""
    return int(checkpoint.name.removeprefix("step-"))


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int, log: Sequence[LogRow]) -> None:
    """Write weights, optimizer, random states and log after `step` steps; every process calls this."""
    final = folder / "checkpoints" / f"step-{step:07d}"
    temporary = final.with_name(f".{final.name}")
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary), safe_serialization=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_log(temporary / LOG_FILE, log)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    accelerator.wait_for_everyone()


def drop_older(accelerator: Accelerator, folder: Path) -> None:
    """Keep only the newest checkpoint, once its weights have proved good."""
    if accelerator.is_main_process:
        for path in list_checkpoints(folder)[:-1]:
            shutil.rmtree(path)


def good_checkpoints(folder: Path, failed_step: int) -> list[Path]:
    """Checkpoints to go back to when step `failed_step` (from 0) failed: those whose weights had not just failed."""
    return [path for path in list_checkpoints(folder) if step_of(path) < failed_step]


def drop_bad(accelerator: Accelerator, folder: Path, failed_step: int) -> None:
    """Remove what `good_checkpoints` leaves out."""
    if accelerator.is_main_process:
        for path in set(list_checkpoints(folder)) - set(good_checkpoints(folder, failed_step)):
            shutil.rmtree(path)
    accelerator.wait_for_everyone()


def resume(accelerator: Accelerator, folder: Path) -> tuple[int, list[LogRow]]:
    """Load the last complete checkpoint, if there is one: the number of steps already done and their log."""
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        return 0, []
    accelerator.load_state(str(checkpoints[-1]))
    rows = pq.read_table(checkpoints[-1] / LOG_FILE).to_pylist()
    return step_of(checkpoints[-1]), [(row["step"], row["name"], row["value"]) for row in rows]


def write_log(path: Path, log: Sequence[LogRow]) -> None:
    """Write the log as Parquet, whole or not at all."""
    columns = [list(column) for column in zip(*log, strict=True)] if log else [[], [], []]
    temporary = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema=LOG_SCHEMA), temporary)
    os.replace(temporary, path)
