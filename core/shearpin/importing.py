"""Doing something once a package has been imported, by whomever and whenever."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


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
