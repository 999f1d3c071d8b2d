"""`ttl-history`: sessions listed, shown and deleted from a shell."""

from __future__ import annotations

import sys
from io import TextIOWrapper

__all__ = ["main"]


def main() -> None:
    """Run the command line; exits with 1 if something is wrong or not there, with 2 for bad usage."""
    try:
        from langchain_ttl_history.cli.commands import app
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        sys.exit('ttl-history needs an extra: pip install "langchain-ttl-history[cli]"')
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # What the terminal has no letter for is spelled out.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except OSError as error:
        sys.exit(f"ttl-history: {error}")
