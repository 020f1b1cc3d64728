"""Which CrewAI this works with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from shearpin import MissingIntegrationError

OLDEST, NEXT = (1, 15, 20), (1, 16)
"""Before the first, the stop is retried like any error; CrewAI changes its hooks with the middle number."""

_INSTALL = 'pip install "crewai>=1.15.20,<1.16"'


def check_version() -> None:
    """Raise MissingIntegrationError if CrewAI is absent, or a version in which a stop would not get out."""
    try:
        found = version("crewai")
    except PackageNotFoundError:
        raise MissingIntegrationError(_INSTALL) from None
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdecimal())
    if not OLDEST <= numbers < NEXT:
        raise MissingIntegrationError(f"{_INSTALL}  # crewai {found} is installed")
