"""Packages that may be there or not: which version is needed, and doing something once one has been imported."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType

from shearpin.errors import MissingIntegrationError


def require(package: str, oldest: str, below: str | None = None) -> None:
    """Raise MissingIntegrationError unless `package` is installed, from `oldest` up to, not including, `below`.

    For the first line of an integration: of another version, what is missing would be all that is said.
    """
    wanted = f"{package}>={oldest}" + (f",<{below}" if below else "")
    line = f'pip install "{wanted}"'
    try:
        found = version(package)
    except PackageNotFoundError:
        raise MissingIntegrationError(line) from None
    if _numbers(found) < _numbers(oldest) or (below is not None and _numbers(found) >= _numbers(below)):
        raise MissingIntegrationError(f"{line}  # {package} {found} is installed")


def _numbers(of: str) -> list[int]:
    return [int(number[0]) for part in of.split(".")[:3] if (number := re.match(r"\d+", part))]


def when_imported(package: str, then: Callable[[], None]) -> None:
    """Call `then` now if `package` is imported, else right after it is."""
    if package in sys.modules:
        then()
        return
    _watcher.waiting.setdefault(package, []).append(then)
    if _watcher not in sys.meta_path:
        sys.meta_path.insert(0, _watcher)


class _Watcher(MetaPathFinder):
    """Finds nothing itself: it lets the finder that does find a package tell when its code has run."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Callable[[], None]]] = {}

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - of packages within packages, which nobody waits for
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname not in self.waiting:
            return None
        waiting = self.waiting.pop(fullname)  # so that the next line asks everyone else
        spec = find_spec(fullname)
        if spec is None or spec.loader is None:
            self.waiting[fullname] = waiting
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for then in waiting:
                then()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign] # a loader is made for each spec
        return spec


_watcher = _Watcher()
