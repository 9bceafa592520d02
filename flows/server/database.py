"""Whether the database that a server is to use can be reached: the server itself only says so in a long traceback."""

import asyncio

from srpo_core.errors import InputError, first_line

KINDS = ("sqlite+aiosqlite://", "postgresql+asyncpg://")
SECONDS = 10


def require_database(url: str) -> None:
    """Raises InputError for another kind of URL and for a PostgreSQL that cannot be used; an SQLite file the server makes."""
    if not url.startswith(KINDS):
        raise InputError(
            f"expected a database URL beginning with {' or '.join(KINDS)} as --database, found {url.split('://')[0]}://; "
            f"PostgreSQL is postgresql+asyncpg://user:password@host/name"
        )
    if url.startswith(KINDS[1]):
        asyncio.run(_connect(url))


async def _connect(url: str) -> None:
    from sqlalchemy import make_url
    from sqlalchemy.ext.asyncio import create_async_engine

    try:
        engine = create_async_engine(url, connect_args={"timeout": SECONDS})
        async with engine.connect():
            pass
        await engine.dispose()
    except Exception as error:  # noqa: BLE001  (the driver, SQLAlchemy and the system each have their own)
        name = url.split("://")[0] if "@" not in url else make_url(url).render_as_string(hide_password=True)
        raise InputError(
            f"expected to reach the database {name}, found: {first_line(error)}; start it, or mend --database"
        ) from error
