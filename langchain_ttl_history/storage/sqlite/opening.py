"""Which path may name a SQLite file, how the file is made, and how a connection to it is opened."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path
from urllib.parse import quote

from langchain_ttl_history.errors import ConfigurationError, StorageError, brief
from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.storage.sqlite.schema import make, prepare

__all__ = ["MEMORY", "make_file", "open_connection", "valid_path", "way_out"]

MEMORY = ":memory:"
"""The path that stands for this process's memory."""

_WRITABLE = "the file and its folder must be writable by this user, also in order to read"
# What SQLite says of a file, and the way out, of which it says nothing.
_WAYS_OUT = {
    "readonly database": _WRITABLE,
    "unable to open database file": f"{_WRITABLE}, and the process must not have too many files open",
    "is locked": "another program holds it: let that end its transaction, or give SQLiteStorage a larger timeout",
    "is full": "make some megabytes of room, which deleting and sweep() need as well",
    "is not a database": "it is another program's, or damaged: name a different file, or bring back a copy",
}

# Held while a file is made: closing any descriptor of a file would drop the locks that this
# process's connections hold on it.
_making = lock()

# A drive of Windows has a single letter.
_URL = re.compile(r"(sqlite|file):|[a-z][a-z0-9+.-]{1,30}://", re.IGNORECASE)


def valid_path(path: object) -> str:
    """A path as a string."""
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigurationError(f"path must be a string or a path, not {brief(path)}")
    text = str.__str__(path) if isinstance(path, str) else os.fspath(path)  # An enum's member is written otherwise.
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigurationError(f"path must name a file, not {brief(path)}")
    if _URL.match(text):
        # The rest is not shown, since it may hold a password.
        raise ConfigurationError(
            f"path must name a file, and what begins with {text.partition(':')[0]}: is a URL; pass the path "
            "alone, or a URL like sqlite:///path.db to SessionBuffer(...)"
        )
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"path must name a file, not {brief(path)}: {error}") from error
    if text == MEMORY:
        return text
    try:
        # A change of the working directory must not lead to another file.
        return str(Path(text).absolute())
    except OSError as error:
        raise ConfigurationError(
            f"{text} is relative to the working directory, which was deleted or cannot be reached "
            f"({error.strerror}); pass an absolute path, or change to a directory that is there"
        ) from error


def _uri(path: str) -> str:
    """The path as SQLite takes it: unlike `Path.as_uri`, with a server of a Windows share in the path."""
    plain = Path(path).as_posix()
    return f"file://{'' if plain.startswith('/') else '/'}{quote(os.fsencode(plain))}"


def open_connection(path: str, *, durable: bool, timeout: float, first: bool = False) -> sqlite3.Connection:
    """Open a connection; the `first` makes the tables where they are not there yet.

    Raises:
        ConfigurationError: It is another program's file, or its file system lacks what SQLite needs.
        StorageError: A newer version of this package wrote it.
        sqlite3.Error: SQLite refused, perhaps for the moment; see `way_out`.
    """
    # SQLite would make a file that is gone anew, for everyone to read.
    where = path if path == MEMORY else f"{_uri(path)}?mode=rw"
    # Each is lent to one thread at a time, so it need not check which one that is.
    connection = sqlite3.connect(where, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        prepare(connection, durable=durable)
        if first and make(connection, path) not in ("wal", "memory"):
            raise ConfigurationError(
                f"{path} cannot be shared by processes, its file system lacks what SQLite's WAL mode "
                "needs; name a file on a local disk"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def way_out(error: sqlite3.Error) -> str:
    """What to do about an error of SQLite's, behind a semicolon; empty if that is not known."""
    return next((f"; {way}" for words, way in _WAYS_OUT.items() if words in str(error)), "")


def make_file(path: Path) -> None:
    """Make an empty file for its owner alone, unless it is there.

    Raises:
        ConfigurationError: It is a folder, or in one that is not there.
        StorageError: The system refused.
    """
    with _making:
        try:
            # A link may lead to where nothing is yet.
            real = path.resolve()
            if real.is_dir():
                raise ConfigurationError(f"{path} is a folder; name a file in it")
            if not real.parent.is_dir():
                raise ConfigurationError(
                    f"there is no folder {real.parent} for {path.name}{_way_to_folder(real.parent)}"
                )
            os.close(os.open(real, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            return
        except (OSError, RuntimeError) as error:
            # Before Python 3.13 links that lead to each other are a RuntimeError.
            way = f"; {_WRITABLE}" if isinstance(error, PermissionError) else ""
            raise StorageError(f"{path}: {getattr(error, 'strerror', None) or error}{way}") from error


def _way_to_folder(folder: Path) -> str:
    # A path is absolute by now, so that one which began with ~ has that behind the working directory.
    try:
        behind = folder.relative_to(Path.cwd()).parts
    except (ValueError, OSError):  # It is elsewhere, or the working directory was deleted.
        behind = ()
    if behind and behind[0].startswith("~"):
        return ": ~ is not expanded here, pass what os.path.expanduser(...) makes of the path"
    return "; make it first"
