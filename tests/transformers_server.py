"""`transformers serve` as a process of its own: an OpenAI-compatible server that is independent of this project."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def serving(model: str, folder: Path, scratch: Path) -> Iterator[str]:
    """Serve `model` as the server finds it from `folder`; yields the address for clients. Skips where it is not installed."""
    command = Path(sys.executable).parent / "transformers"
    if not command.exists() and shutil.which("transformers") is None:
        pytest.skip("the transformers command is not installed")
    pytest.importorskip("uvicorn", reason="transformers serve needs uvicorn")
    (scratch / "cache" / "hub").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"HF_HOME": str(scratch / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    log = (scratch / "serve.log").open("w")
    arguments = [str(command), "serve", model, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(
        arguments, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", server, scratch / "serve.log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


def _wait_until_healthy(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"transformers serve did not answer at {url}:\n{log.read_text()[-2000:]}")
