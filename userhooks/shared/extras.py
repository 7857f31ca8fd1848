"""Errors for missing libraries of the `lab` extra. Modules that use one import it under `lab_extra()`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from userhooks.errors import ConfigurationError


@contextmanager
def lab_extra() -> Iterator[None]:
    """Context in which to import libraries of the `lab` extra. Raises ConfigurationError, which names the extra, if one is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise not_installed(str(error.name)) from None


def not_installed(library: str) -> ConfigurationError:
    """Return the error for a missing library of the `lab` extra."""
    return ConfigurationError(f"{library} is not installed.", "Install the libraries for the notebooks with: pip install 'userhooks[lab]'")
