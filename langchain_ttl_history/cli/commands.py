"""The commands: calls of `SessionBuffer`, none of them a use of a session."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from langchain_ttl_history.buffer import SessionBuffer
from langchain_ttl_history.cli.drawing import console, facts, listing, timeline
from langchain_ttl_history.display import amount
from langchain_ttl_history.errors import ConfigurationError, TTLHistoryError, TypeNotAllowedError
from langchain_ttl_history.flow import run
from langchain_ttl_history.keys import valid_id
from langchain_ttl_history.retention import Retention
from langchain_ttl_history.session_info import SessionInfo, portrait
from langchain_ttl_history.session_listing import readable
from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.storage.redis import RedisStorage
from langchain_ttl_history.timeline import counted
from langchain_ttl_history.urls import open_storage

__all__ = ["app"]

app: typer.Typer = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Look at the sessions of a storage, and delete them. Nothing here prolongs a session.",
    epilog="Options go before the command: ttl-history --url sqlite:///sessions.db stats",
)

User = Annotated[str, typer.Argument(help="Whose session.")]
Session = Annotated[str, typer.Argument(help="Which of the user's sessions.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclasses.dataclass(frozen=True)
class Where:
    """The sessions the options name."""

    url: str
    prefix: str | None
    types: list[str]
    idle_ttl: float


class Command(TyperCommand):
    """A command that tells where the options of the app go, if one stands behind the command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse the options of the app by name."""
        own = takewhile(lambda each: each != "--", args)
        for name in (each.partition("=")[0] for each in own):
            if name in {"--url", "--prefix", "--allow-type", "--idle-ttl"}:
                typer.echo(f"{name} goes before the command: ttl-history {name} ... {ctx.info_name}", err=True)
                raise typer.Exit(2)
        return super().parse_args(ctx, args)


_command = partial(
    app.command, cls=Command, epilog="The storage is named before the command: ttl-history --url URL ..."
)


@app.callback()
def where(
    context: typer.Context,
    url: Annotated[str, typer.Option(envvar="TTL_HISTORY_URL", help="sqlite:///PATH, redis://HOST:PORT/0, ...")] = "",
    prefix: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="On Redis, the prefix of the program's RedisStorage.")
    ] = None,
    allow_type: Annotated[
        list[str] | None, typer.Option(metavar="MODULE:CLASS", help="A class of the program's own that may be rebuilt.")
    ] = None,
    idle_ttl: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="The program's idle_ttl, if over a day: for how long deletions hold."),
    ] = 86_400.0,
) -> None:
    """Say which sessions are meant."""
    context.obj = Where(url, prefix, allow_type or [], idle_ttl)


@_command()
def sessions(
    context: typer.Context,
    user: Annotated[str | None, typer.Argument(help="Whose sessions.")] = None,
    *,
    everyone: Annotated[bool, typer.Option("--all", help="Those of all users.")] = False,
    as_json: Json = False,
) -> None:
    """List the sessions of a user, or of everyone, the least recently used first."""
    with opened(context) as buffer:
        if (user is None) is not everyone:
            raise ConfigurationError("either name a user, or pass --all for the sessions of everyone")
        unread: list[TTLHistoryError] = []
        found = readable(buffer.sessions(user, all_users=everyone), unread)
        if as_json:
            for info in found:
                typer.echo(_json(info))
        else:
            screen = console()
            screen.print(listing(found, screen.width))
        for error in unread:
            _complain(error)
        if unread:
            raise typer.Exit(1)


@_command()
def info(context: typer.Context, user: User, session: Session, *, as_json: Json = False) -> None:
    """Tell how much a session holds, and how long it lives."""
    with opened(context) as buffer:
        found = buffer.info(user, session)
        if found is None:
            raise _missing(user, session)
        if as_json:
            typer.echo(_json(found))
        else:
            console().print(facts(found))


@_command()
def show(context: typer.Context, user: User, session: Session) -> None:
    """Show the conversation of a session, tool calls with their results."""
    with opened(context) as buffer:
        # Not by a history, which is no more once LangChain has dropped its base class.
        found = run(buffer._storage, portrait(buffer._sessions, buffer._key(user, session)))
        if found is None:
            raise _missing(user, session)
        screen = console()
        for part in timeline(found):
            screen.print(part)


@_command()
def delete(context: typer.Context, user: User, session: Session, *, yes: Yes = False) -> None:
    """Delete a session for good."""
    with opened(context) as buffer:
        valid_id("user_id", user)
        valid_id("session_id", session)
        _sure(f"Delete session {session!r} of {user!r}?", yes=yes)
        if not buffer.delete(user, session):
            raise _missing(user, session)
        typer.echo("deleted")


@_command()
def forget(context: typer.Context, user: User, *, yes: Yes = False) -> None:
    """Delete all sessions of a user for good."""
    with opened(context) as buffer:
        valid_id("user_id", user)
        _sure(f"Delete every session of {user!r}?", yes=yes)
        count = buffer.forget(user)
        typer.echo(f"{counted(count, 'session')} deleted")


@_command()
def stats(context: typer.Context, *, as_json: Json = False) -> None:
    """Tell how many sessions there are, and how much they hold together."""
    with opened(context) as buffer:
        usage = buffer.stats()
        if as_json:
            typer.echo(json.dumps(usage._asdict()))
        else:
            typer.echo(f"{counted(usage.sessions, 'session')}, {amount(usage.bytes)}")


@_command()
def sweep(context: typer.Context) -> None:
    """Free what expired."""
    with opened(context) as buffer:
        typer.echo(f"{counted(buffer.sweep(), 'expired session')} freed")


# What the commands share


@contextmanager
def opened(context: typer.Context) -> Iterator[SessionBuffer]:
    """The buffer the options name; errors of this package become a line and exit code 1."""
    chosen: Where = context.obj
    try:
        _check(chosen.url)
        retention, types = _retention(chosen.idle_ttl), [*map(_class, chosen.types)]
        with closing(_storage(chosen)) as storage:
            yield SessionBuffer(storage, retention=retention, allow_types=types)
    except TTLHistoryError as error:
        _complain(error)
        # As other commands do, exit with 2 for wrong usage.
        raise typer.Exit(2 if isinstance(error, ConfigurationError) else 1) from error


def _complain(error: TTLHistoryError) -> None:
    way = "; here: --allow-type MODULE:CLASS" if isinstance(error, TypeNotAllowedError) else ""
    typer.echo(f"{error}{way}", err=True)


def _retention(idle_ttl: float) -> Retention:
    """Unbounded, so that all that is held is shown, whatever the program's own bounds are."""
    try:
        return Retention(idle_ttl=idle_ttl, max_messages=None, max_checkpoints=None, max_bytes=None)
    except ConfigurationError as error:
        raise ConfigurationError(f"--idle-ttl must be more than 0 seconds and finite, not {idle_ttl:g}") from error


def _storage(chosen: Where) -> Storage:
    if chosen.prefix is None:
        return open_storage(chosen.url)
    return RedisStorage(chosen.url, prefix=chosen.prefix)


def _check(url: str) -> None:
    """Refuse a storage where there is nothing to look at."""
    if not url or url.startswith("memory") or url.endswith(":memory:"):
        raise ConfigurationError(
            "no storage to look at: pass --url before the command, or set TTL_HISTORY_URL; "
            "the memory of another process cannot be read"
        )
    if "://" not in url:
        # Not shown, since it may hold a password.
        raise ConfigurationError("a storage is named by a URL: sqlite:///PATH, redis://HOST:PORT/0")
    scheme, _, path = url.partition("sqlite:///")
    if not scheme and path and "?" not in path:
        _check_file(Path(path))


def _check_file(path: Path) -> None:
    if not path.exists():
        way_out = "; ~ is not expanded here, write $HOME" if path.parts[0].startswith("~") else ""
        raise ConfigurationError(f"there is no file {path}{way_out}")
    if not path.stat().st_size:
        # If it was opened, it would be made into a storage.
        raise ConfigurationError(f"{path} is empty: it holds no sessions")


def _class(name: str) -> type:
    module, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        # An installed command does not look there by itself. Last, so that the program's modules hide no others.
        sys.path.append(str(Path.cwd()))
    try:
        found: Any = getattr(import_module(module), attribute)
    except Exception as error:  # a module may raise anything when it is imported
        raise ConfigurationError(f"--allow-type {name}: {error}; name it as MODULE:CLASS") from error
    if not isinstance(found, type):
        raise ConfigurationError(f"--allow-type {name} is not a class; name one as MODULE:CLASS")
    return found


def _missing(user: str, session: str) -> typer.Exit:
    typer.echo(f"there is no session {session!r} of {user!r}", err=True)
    return typer.Exit(1)


def _sure(question: str, *, yes: bool) -> None:
    if not yes:
        typer.confirm(question, abort=True)


def _json(info: SessionInfo) -> str:
    return json.dumps(dataclasses.asdict(info), default=lambda time: time.isoformat())
