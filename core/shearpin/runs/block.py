"""What runs, steps and calls have in common: something opens, code runs inside it, it closes."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from shearpin.errors import ShearpinError, ToldError
from shearpin.trace.ambient import Here


class Once:
    """A ``with`` block that is got through once, by whichever thread comes first; a failure leaves it to the next."""

    __slots__ = ("_left", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._left = [True]

    def __enter__(self) -> None:
        try:
            self._left.pop()  # one step: of two threads, one gets it
        except IndexError:
            raise ShearpinError(f"{self._what} was opened before: make a new one for every `with`") from None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._left.append(True)


class Block:
    """A ``with`` and ``async with`` block around user code, opened once.

    A subclass opens (which may raise the stop, and in the async form may wait), says where its code then is
    (``here``), and closes with the error that left the block, if one did.
    """

    here: Here

    def __init__(self, what: str) -> None:
        self._once = Once(what)
        self._entered = False

    def open(self) -> None:
        """Start; may raise the stop."""
        raise NotImplementedError

    async def aopen(self) -> None:
        """Start; may wait for calls in flight, and may raise the stop."""
        self.open()

    def close(self, error: BaseException | None = None) -> None:
        """End. Raises the stop of a stopped run if it was swallowed inside."""
        raise NotImplementedError

    def abandon(self) -> None:
        """It was interrupted while it opened: what has begun has not."""
        raise NotImplementedError

    def returned(self, value: object) -> None:
        """The decorated function returned `value`."""
        raise NotImplementedError

    def hand_out(self, value: Any) -> Any:  # noqa: ANN401 - the function's own
        """The decorated function returned `value`, which is over: what its caller gets."""
        self.returned(value)
        self.close()
        return value

    def produced(self, items: list[object]) -> None:
        """The decorated generator yields `items`: a list that grows while it runs."""
        self.returned(items)

    def came(self) -> None:
        """A piece of what the decorated function makes came."""

    def __enter__(self) -> Self:
        try:
            self.open()
            return self._enter()
        except ToldError as told:  # the code inside cannot be left out
            raise told.denial from None
        except ShearpinError:
            raise
        except BaseException:  # a signal's: the code inside is not reached
            self.abandon()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._leave(error)

    async def __aenter__(self) -> Self:
        try:
            await self.aopen()
            return self._enter()
        except ToldError as told:
            raise told.denial from None
        except ShearpinError:
            raise
        except BaseException:
            self.abandon()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._leave(error)

    def _enter(self) -> Self:
        self.here.__enter__()
        self._entered = True
        return self

    def _leave(self, error: BaseException | None) -> None:
        if self._entered:  # left twice is left once
            self._entered = False
            try:
                self.here.__exit__()
            finally:
                self.close(error)
