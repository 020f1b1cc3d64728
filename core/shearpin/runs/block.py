"""What runs, steps and calls have in common: something opens, code runs inside it, it closes."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from shearpin.trace.ambient import Here


class Block:
    """A ``with`` and ``async with`` block around user code.

    A subclass opens (which may raise the stop, and in the async form may wait), says where its code then is
    (``here``), and closes with the error that left the block, if one did.
    """

    here: Here

    def open(self) -> None:
        """Start; may raise the stop."""
        raise NotImplementedError

    async def aopen(self) -> None:
        """Start; may wait for calls in flight, and may raise the stop."""
        self.open()

    def close(self, error: BaseException | None = None) -> None:
        """End. Raises the stop of a stopped run if it was swallowed inside."""
        raise NotImplementedError

    def returned(self, value: object) -> None:
        """The decorated function returned `value`."""
        raise NotImplementedError

    def produced(self, items: list[object]) -> None:
        """The decorated generator yields `items`: a list that grows while it runs."""
        self.returned(items)

    def __enter__(self) -> Self:
        self.open()
        self.here.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.here.__exit__()
        self.close(error)

    async def __aenter__(self) -> Self:
        await self.aopen()
        self.here.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.here.__exit__()
        self.close(error)
