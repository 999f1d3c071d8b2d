"""By which module a stored class is named."""

from __future__ import annotations

__all__ = ["module_of", "same_everywhere"]


def same_everywhere(module: str) -> str:
    """A module's name as it is in every process of a program.

    A process that `multiprocessing` spawned runs the program's main module under another name, so there its classes
    say that they are of that one.
    """
    return "__main__" if module == "__mp_main__" else module


def module_of(cls: type) -> str:
    """The module that a class is stored with."""
    return same_everywhere(cls.__module__)
