"""Weights sharded over two processes train like whole ones, and are saved whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.fakes import tiny_llama
from tests.small_training import objective, train_on

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_sharded_training_equals_plain_training_and_resumes(tmp_path: Path) -> None:
    """FSDP2 over gloo: unequal micro-batches do not hang, gathered weights are the whole model, a sharded checkpoint goes on."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})
    subprocess.run([*launch, "-m", "tests.sharded_training", str(tmp_path)], check=True, cwd=ROOT, env=environment, timeout=180)
    plain = tiny_llama(initializer_range=0.2)
    train_on(plain, objective(13, num_steps=4, pairs_per_step=5, learning_rate=1e-4), tmp_path / "plain")
    first, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "resumed"))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(first[name], value, rtol=0, atol=2e-5)
        assert torch.equal(first[name], resumed[name]), name
