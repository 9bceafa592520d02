"""The command line `srpo`: every command, exit statuses, and no traceback for what a user can cause.

Exit status 0 done; 2 bad input, settings or usage; 1 the work failed; 130 ended by Ctrl-C, 143 by SIGTERM. Results go to standard
output, everything else to standard error. `srpo --help` imports neither torch nor Prefect nor DuckDB.
"""

import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer

from flows.commands import (
    artifacts,
    audit,
    data,
    doctor,
    equal_compute,
    export,
    gc,
    judge,
    registry,
    results,
    revise,
    run,
    serve,
    stages,
    verdicts,
)
from flows.commands.output import configure_logging
from flows.endings import unforeseen
from srpo_core.errors import InputError, WorkFailed
from storage.errors import BrokenArtifact, UnusableInput

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
logger = logging.getLogger("srpo")
app = typer.Typer(
    name="srpo",
    help="From preference pairs to a language model that revises its own answers, and to a win rate one can trust.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    *(run, data, stages, judge, results, artifacts, gc, verdicts),
    *(audit, equal_compute, registry, revise, export, serve, doctor),
)
for module in COMMANDS:
    module.add_commands(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        try:
            print(f"srpo {metadata.version('srpo-pipeline')}")
        except metadata.PackageNotFoundError:
            print("srpo, not installed: run from a checkout")
        raise typer.Exit()


@app.callback()
def describe(
    debug: Annotated[
        bool, typer.Option("--debug", help="Log more, and show the traceback of an error. Also SRPO_DEBUG=1.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command; `main` reads --debug itself, wherever it stands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; the entry point of `srpo`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("SRPO_DEBUG", "") not in ("", "0")
    configure_logging(debug)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a log is no place for bars
    if not debug and not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries say to developers
    try:
        with _sigterm_ends_the_work():
            status = typer.main.get_command(app)(
                [one for one in given if one != "--debug"] or ["--help"], prog_name="srpo", standalone_mode=False
            )
            sys.stdout.flush()
        return _ended("interrupted", INTERRUPTED) if status == INTERRUPTED else int(status or 0)
    except KeyboardInterrupt:
        return _ended("interrupted", INTERRUPTED)
    except SystemExit as stop:
        return _ended("ended by SIGTERM", TERMINATED) if stop.code == TERMINATED else int(stop.code or 0)
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:  # noqa: BLE001  (the one place where every error becomes a sentence)
        if debug:
            traceback.print_exc()
        status, sentence = explain(error)
        print(f"srpo: {sentence}", file=sys.stderr)
        return status


def explain(error: Exception) -> tuple[int, str]:
    """The exit status and the sentence for an error."""
    if isinstance(error, InputError | UnusableInput):
        return 2, str(error)
    if isinstance(error, WorkFailed | BrokenArtifact):
        return 1, str(error)
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # wrong usage, found by typer
        message = error.format_message() or "expected a command"
        return 2, f"{message.rstrip('.')}; `{_command_of(error)} --help` shows what is possible"
    if isinstance(error, ModuleNotFoundError):
        return 1, f"expected the package {error.name}, found it missing; `srpo doctor` shows what this installation lacks"
    ours = not (isinstance(error, OSError) and error.strerror)
    return 1, unforeseen(error) + ("; this is a bug in srpo (--debug shows where)" if ours else "")


def _command_of(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context is not None else "srpo"


def _ended(how: str, status: int) -> int:
    print(f"srpo: {how}; what is complete stays, and running the same command again continues", file=sys.stderr)
    return status


@contextmanager
def _sigterm_ends_the_work() -> Iterator[None]:
    """Leave by an exception on SIGTERM, so that the processes of a stage are ended too, with a checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
