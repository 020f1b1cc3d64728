"""Run by Python at its start where `shearpin run` has put this folder into PYTHONPATH."""

import sys
from importlib import import_module
from pathlib import Path


def _yield_to_the_next() -> None:
    """A sitecustomize of the environment's own runs too."""
    here = str(Path(__file__).parent)
    sys.path[:] = [entry for entry in sys.path if entry != here]
    ours = sys.modules.pop("sitecustomize", None)
    try:
        import_module("sitecustomize")
    except ModuleNotFoundError:
        if ours is not None:
            sys.modules["sitecustomize"] = ours


_yield_to_the_next()
try:
    boot = import_module("shearpin.launching.boot").boot
except ImportError:
    pass  # another Python, without Shearpin: `shearpin run` says so if no other has it
else:
    boot()
