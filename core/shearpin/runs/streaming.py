"""A stream that a decorated function returned: its call goes on until the caller has used it up or closed it.

What the function's caller gets is the provider's stream in all but its type's name: chunks pass through and are kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from weakref import ProxyTypes

if TYPE_CHECKING:
    from shearpin.runs.calls import LLMCall


def streamed(value: object, call: LLMCall) -> Stream | AsyncStream | None:
    """`value` as a stream that ends `call`, if it is one."""
    if type(value) in ProxyTypes:  # has every method there is
        return None
    if hasattr(type(value), "__anext__"):
        return AsyncStream(value, call)
    return Stream(value, call) if hasattr(type(value), "__next__") else None


class _Passing:
    """What streams of both colours have in common: everything of the provider's that is not ours."""

    def __init__(self, stream: object, call: LLMCall) -> None:
        self._stream: Any = stream
        self._call = call
        self._chunks: list[object] = []
        call.returned(self._chunks)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the provider's
        return getattr(self._stream, name)

    def _came(self, chunk: Any) -> Any:  # noqa: ANN401 - the provider's
        self._chunks.append(chunk)
        self._call.came()
        return chunk

    def _left(self, error: BaseException | None) -> None:
        self._call.close(GeneratorExit("the stream was closed") if error is None else error)  # else it has ended


class Stream(_Passing, Iterator[Any]):
    """A stream that is pulled."""

    def __next__(self) -> Any:  # noqa: ANN401 - the provider's
        try:
            chunk = next(self._stream)
        except StopIteration:
            self._call.close()
            raise
        except BaseException as error:
            self._call.close(error)
            raise
        return self._came(chunk)

    def close(self) -> None:
        """Close the provider's: nothing more comes."""
        try:
            self._stream.close()
        finally:
            self._left(None)

    def __enter__(self) -> Self:
        self._stream.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool | None:
        try:
            swallows: bool | None = self._stream.__exit__(kind, error, where)
        finally:
            self._left(error)
        return swallows


class AsyncStream(_Passing, AsyncIterator[Any]):
    """A stream that is awaited."""

    async def __anext__(self) -> Any:  # noqa: ANN401 - the provider's
        try:
            chunk = await anext(self._stream)
        except StopAsyncIteration:
            self._call.close()
            raise
        except BaseException as error:
            self._call.close(error)
            raise
        return self._came(chunk)

    async def close(self) -> None:
        """Close the provider's: nothing more comes."""
        try:
            await self._stream.close()
        finally:
            self._left(None)

    async def aclose(self) -> None:
        """Close a generator's."""
        try:
            await self._stream.aclose()
        finally:
            self._left(None)

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool | None:
        try:
            swallows: bool | None = await self._stream.__aexit__(kind, error, where)
        finally:
            self._left(error)
        return swallows
