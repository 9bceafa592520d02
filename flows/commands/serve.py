"""`srpo serve`: the Prefect server with its UI, everything deployed to it, and a worker; one Ctrl-C ends it all."""

import os
from contextlib import redirect_stderr
from io import StringIO
from typing import Annotated

import typer

from flows.commands.options import HomeOption
from flows.inputs import DEFAULT_HOME, open_home
from flows.server.environment import DATABASE_VARIABLE, address, client_environment, prefect_server, server_environment
from srpo_core.errors import InputError

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 4200


def serve(
    context: typer.Context,
    home: HomeOption = DEFAULT_HOME,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 = also for other machines.")] = DEFAULT_HOST,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the server and its UI.")] = DEFAULT_PORT,
    database: Annotated[
        str,
        typer.Option(
            "--database",
            metavar="URL",
            envvar="PREFECT_SERVER_DATABASE_CONNECTION_URL",
            help="Database of the server, such as postgresql+asyncpg://user:password@host/name; empty = SQLite in the home.",
        ),
    ] = "",
    devices: Annotated[
        int | None,
        typer.Option(
            "--devices",
            min=1,
            metavar="N",
            show_default=False,
            help="How many runs that need a device go at a time; 1 on a new server, else as many as there before.",
        ),
    ] = None,
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Start a worker, which starts the runs.")] = True,
) -> None:
    """Start the Prefect server, deploy everything to it and start a worker; Ctrl-C ends it all.

    With PREFECT_API_URL set to a server that answers, that one is used, and only the worker is started here.
    """
    from flows.server.database import require_database
    from flows.server.processes import answers

    folder, own = open_home(home), f"{address(host, port)}/api"
    given = prefect_server()
    uses_given = given is not None and answers(given)
    if given is not None and not uses_given and given.rstrip("/") != own:
        raise InputError(
            f"expected the Prefect server of PREFECT_API_URL (or of the Prefect profile) to answer, found none at {given}; "
            f"start it, or unset PREFECT_API_URL to start a server here"
        )
    if uses_given and given is not None:
        _require_nothing_of_an_own_server(context, given, own)
        environment = client_environment(folder, given, os.environ)
        print(f"using the Prefect server at {given}", flush=True)
    else:
        environment = server_environment(folder, host, port, database, os.environ)
        require_database(environment[DATABASE_VARIABLE])
    os.environ.update(environment)
    _load_prefect()

    from flows.server.serving import Installation
    from flows.server.serving import serve as serve_until_ended

    installation = Installation(folder, environment, "" if uses_given else host, port, devices, worker)
    serve_until_ended(installation, lambda text: print(text, flush=True))


def _require_nothing_of_an_own_server(context: typer.Context, given: str, own: str) -> None:
    """Raises InputError for options that say how to start a server where one is used that is there."""
    names = ["database"] if given.rstrip("/") == own else ["host", "port", "database"]
    sources = {f"--{name}": context.get_parameter_source(name) for name in names}
    asked = [option for option, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if asked:
        raise InputError(
            f"expected no {', '.join(asked)} with the Prefect server of PREFECT_API_URL (or of the Prefect profile), found that "
            f"it answers at {given}; leave it out, or unset PREFECT_API_URL to start a server here"
        )


def _load_prefect() -> None:
    """Prefect reads its settings when it is imported, here. Raises InputError for one that it refuses."""
    from pydantic import ValidationError

    try:
        with redirect_stderr(StringIO()):  # where its plugins say the same in five lines
            from prefect.settings import get_current_settings

            get_current_settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise InputError(
            f"expected a setting Prefect accepts for {name} ({error.title}), found {first['input']!r}: {first['msg']}; "
            f"mend the variable PREFECT_... in the environment or the profile"
        ) from error


def add_commands(app: typer.Typer) -> None:
    """Put the command of this file into `app`."""
    app.command("serve")(serve)
