"""Errors for missing libraries of the `lab` extra. Modules import these libraries within `lab_extra()`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from userhooks.errors import ConfigurationError


@contextmanager
def lab_extra() -> Iterator[None]:
    """Import libraries of the `lab` extra in this context. If one is missing, it raises ConfigurationError, which names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise not_installed(str(error.name)) from None


def not_installed(library: str) -> ConfigurationError:
    """Return the error for a missing library of the `lab` extra."""
    return ConfigurationError(f"{library} is not installed.", "Install the libraries for the notebooks with: pip install 'userhooks[lab]'")
