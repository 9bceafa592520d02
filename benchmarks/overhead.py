"""What Prefect costs: the demo through server and worker over the same stages called directly, and the import of the flows.

Both sides start from an empty home, in turn, in one run: `srpo run` without a server, and the deployment `run/demo` of a server
and worker that are up, from the moment the run is created until its state is final. Asked: at most 15 % + 20 s longer.

The imports are fresh processes, in turn: `from prefect import flow, task` alone, and the modules of all flows, which may cost at
most 1.5 times as much and must leave torch unloaded. CPU seconds are compared, which a busy machine does not stretch.

    python -m benchmarks.overhead --json            # the demo as it is: a quarter of an hour
    python -m benchmarks.overhead --quick --json    # a tiny newsroom: shows the fixed costs
"""

import argparse
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.in_turns import in_turns
from flows.presets import resolve_settings

ROOT = Path(__file__).resolve().parents[1]
SHARE, SECONDS, IMPORT_RATIO = 0.15, 20.0, 1.5  # what is asked
QUICK = [
    "newsroom={num_demonstrations: 400, num_pairs: 120, num_prompts: 10}",
    "generation.num_revisions=1",
    "methods=[srpo]",
    "diagnostics=null",
]
PREFECT_ALONE = "from prefect import flow, task"
START_SECONDS = 180.0  # for server, deployments and worker; not measured
LONGEST_RUN = 7200.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--quick", action="store_true", help="a tiny newsroom instead of the demo's")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of the imports")
    options = parser.parse_args(arguments)
    result = {"benchmark": "overhead", "imports": measure_imports(options.repeats), "run": measure_runs(options.quick)}
    print(json.dumps(result) if options.json else _lines(result))
    return 0


def measure_imports(repeats: int) -> dict[str, Any]:
    """CPU seconds of Python processes that import Prefect, and all flows; the first round also warms up."""
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    modules = sorted({one["entrypoint"].split(".py:")[0].replace("/", ".") for one in deployed})
    flows = f"import {', '.join(modules)}"
    codes = {"prefect": PREFECT_ALONE, "flows": flows}
    sides = {name: partial(_cpu_seconds, [sys.executable, "-c", code]) for name, code in codes.items()}
    seconds = in_turns(sides, repeats)
    prefect, own = (statistics.median(seconds[name]) for name in ("prefect", "flows"))
    found = {"seconds": seconds, "prefect_seconds": prefect, "flows_seconds": own, "ratio": own / prefect}
    torch_loaded = _loads_torch(flows)
    is_within = own / prefect <= IMPORT_RATIO and not torch_loaded
    return found | {"flows": len(modules), "torch_loaded": torch_loaded, "is_within": is_within}


def measure_runs(quick: bool) -> dict[str, Any]:
    """Wall seconds of the same run without Prefect and through a deployment."""
    settings = resolve_settings("demo", None, QUICK if quick else []).model_dump(mode="json")
    with tempfile.TemporaryDirectory() as folder:
        direct = _run_directly(settings, Path(folder) / "direct")
        with _serving(Path(folder) / "served") as (home, process):
            through = _run_by_deployment(settings, home, process)
    allowed = direct * (1 + SHARE) + SECONDS
    seconds = {"direct_seconds": direct, "deployment_seconds": through, "allowed_seconds": allowed}
    return {
        "quick": quick,
        **seconds,
        "ratio": through / direct,
        "overhead_seconds": through - direct,
        "is_within": through <= allowed,
    }


def _cpu_seconds(command: list[str]) -> float:
    """User and system time of a process; raises CalledProcessError when it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def _loads_torch(code: str) -> bool:
    """Whether torch is loaded in a fresh process once it has run `code`."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print('torch' in sys.modules)"]
    return subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout.strip() == "True"


def _environment(home: Path) -> dict[str, str]:
    """Without any server or profile of this machine."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SRPO_"))}
    return own | {"PREFECT_HOME": str(home / "prefect-of-the-benchmark"), "NO_PROXY": "127.0.0.1"}


def _run_directly(settings: dict[str, Any], home: Path) -> float:
    home.mkdir(parents=True)
    config = home / "settings.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [sys.executable, "-m", "flows.cli", "run", "--config", str(config), "--home", str(home), "--json"]
    began = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, env=_environment(home), stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _run_by_deployment(settings: dict[str, Any], home: Path, process: "subprocess.Popen[bytes]") -> float:
    """Seconds from the creation of the run until its final state. Raises RuntimeError when it did not complete."""
    with _client(home) as client:
        deployment = client.read_deployment_by_name("run/demo")
        asked = {"settings": settings, "home": str(home)}
        began = time.perf_counter()
        run = client.create_flow_run_from_deployment(deployment.id, parameters=asked)
        while not (state := client.read_flow_run(run.id).state).is_final():
            if process.poll() is not None or time.perf_counter() - began > LONGEST_RUN:
                raise RuntimeError(f"expected a final state of the run, found {state.name}; srpo serve ended or takes too long")
            time.sleep(0.25)
        seconds = time.perf_counter() - began
    if not state.is_completed():
        raise RuntimeError(f"expected the run to complete, found {state.name}: {state.message}")
    return seconds


@contextmanager
def _serving(home: Path) -> Iterator[tuple[Path, "subprocess.Popen[bytes]"]]:
    """`srpo serve` on a free port with its worker up, all state in `home`; ended by Ctrl-C."""
    home.mkdir(parents=True)
    command = [sys.executable, "-m", "flows.cli", "serve", "--home", str(home), "--port", str(_free_port())]
    with (home / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=_environment(home), stdout=log, stderr=log, start_new_session=True, preexec_fn=_hear_interrupts
        )
        try:
            _wait_until_up(home, process)
            yield home, process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait_until_up(home: Path, process: "subprocess.Popen[bytes]") -> None:
    """Until the deployment is there and a worker asks for runs. Raises RuntimeError with the end of the log."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with _client(home) as client:
                client.read_deployment_by_name("run/demo")
                if client.read_workers_for_work_pool("local"):
                    return
        except Exception:  # noqa: BLE001  (not up yet, in one of many ways)
            pass
        time.sleep(1)
    raise RuntimeError(f"expected srpo serve to come up, found: {(home / 'serve.log').read_text(errors='replace')[-1000:]}")


def _client(home: Path) -> Any:
    from prefect.client.orchestration import SyncPrefectClient

    from flows.server.environment import served_url

    url = served_url(home)
    if url is None:
        raise RuntimeError("no server yet")
    return SyncPrefectClient(url)


def _hear_interrupts() -> None:
    """A shell starts what it runs in the background deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _lines(result: dict[str, Any]) -> str:
    run, imports = result["run"], result["imports"]
    return (
        f"{'a tiny run' if run['quick'] else 'the demo'}: {run['direct_seconds']:.1f} s directly, "
        f"{run['deployment_seconds']:.1f} s through server and worker: {run['ratio']:.2f} times, "
        f"{run['overhead_seconds']:.1f} s more (at most {run['allowed_seconds']:.1f} s: {'yes' if run['is_within'] else 'NO'})\n"
        f"imports: {imports['flows_seconds']:.2f} s of CPU for {imports['flows']} modules of flows, "
        f"{imports['prefect_seconds']:.2f} s for Prefect alone: {imports['ratio']:.2f} times "
        f"(at most {IMPORT_RATIO}, without torch: {'yes' if imports['is_within'] else 'NO'})"
        f", torch {'LOADED' if imports['torch_loaded'] else 'not loaded'}"
    )


if __name__ == "__main__":
    sys.exit(main())
