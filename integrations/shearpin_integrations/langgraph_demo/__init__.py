"""`shearpin demo`: four runs of real LangChain and LangGraph code, two of which run away and are stopped.

A program over the public surface, as a user would write it, and no adapter.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from shearpin import MissingIntegrationError, ShearpinError

__all__ = ["main"]

_FRAMEWORKS = ("langchain", "langchain_core", "langchain_openai", "langgraph", "openai")
_INSTALL = "pip install 'shearpin[demo]'"


def main(*, live: bool, out: Path) -> int:
    """Play and print the four stories, with a scripted model or a `live` one; their traces go to a file in `out`.

    Returns 0 when all of it happened as told, else 1.

    Raises:
        ShearpinError: there is no key for the real API.
        MissingIntegrationError: a framework is absent or too old.
        OSError: `out` cannot be written.
    """
    if live and not os.environ.get("OPENAI_API_KEY"):
        raise ShearpinError(
            "demo --live asks OpenAI's API, so OPENAI_API_KEY must be set; without --live it needs no key"
        )
    if not all(map(find_spec, _FRAMEWORKS)):
        raise MissingIntegrationError(_INSTALL)
    # The imports below take seconds.
    sys.stdout.write("Four runs of real LangChain and LangGraph code. Shearpin stops two of them.\n")
    sys.stdout.flush()
    try:
        from shearpin_integrations.langgraph_demo.telling import tell_all
    except ImportError as missing:
        if (missing.name or "").partition(".")[0] not in _FRAMEWORKS:
            raise
        raise MissingIntegrationError(_INSTALL) from missing
    return 1 if tell_all(live=live, out=out) else 0
