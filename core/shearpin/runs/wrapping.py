"""Any function as a block: plain, coroutine, generator and async generator functions alike.

A generator's body runs in its consumer's context, piece by piece, so its place is entered and left around every
piece: between two items the consumer's own calls do not belong to it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, TypeVar

from shearpin.runs.block import Block

Function = TypeVar("Function", bound=Callable[..., Any])
Make = Callable[[dict[str, Any]], Block]


def wrap(function: Function, make: Make) -> Function:
    """`function` with every call inside a new block, made from its arguments by name."""
    signature = inspect.signature(function)

    def block(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Block:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:  # the call itself will raise it, in its own words
            return make(dict(kwargs))
        return make({name: value for name, value in bound.arguments.items() if name not in ("self", "cls")})

    return functools.wraps(function)(_shape(function)(function, block))  # type: ignore[return-value]


def _shape(function: Callable[..., Any]) -> Callable[..., Callable[..., Any]]:
    if inspect.isasyncgenfunction(function):
        return _async_generator
    if inspect.isgeneratorfunction(function):
        return _generator
    return _coroutine if inspect.iscoroutinefunction(function) else _plain


def _plain(function: Callable[..., Any], block: Callable[..., Block]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> object:
        with block(args, kwargs) as inside:
            value = function(*args, **kwargs)
            inside.returned(value)
            return value

    return call


def _coroutine(function: Callable[..., Any], block: Callable[..., Block]) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> object:
        async with block(args, kwargs) as inside:
            value = await function(*args, **kwargs)
            inside.returned(value)
            return value

    return call


def _generator(function: Callable[..., Any], block: Callable[..., Block]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        inside = block(args, kwargs)
        inside.open()
        items: list[Any] = []
        inside.produced(items)
        generator = function(*args, **kwargs)
        resume: Callable[[], Any] = functools.partial(next, generator)
        try:
            while True:
                with inside.here:
                    item = resume()
                items.append(item)
                resume = yield from _handed_out(generator, item)
        except StopIteration as finished:
            inside.close()
            return finished.value
        except BaseException as error:
            with inside.here:
                generator.close()
            inside.close(error)
            raise

    return call


def _handed_out(generator: Generator[Any, Any, Any], item: object) -> Generator[Any, Any, Callable[[], Any]]:
    """Yield `item`; what the consumer then does with us is done to `generator` next."""
    try:
        sent = yield item
    except GeneratorExit:
        raise
    except BaseException as thrown:  # noqa: BLE001 - whatever the consumer throws in
        return functools.partial(generator.throw, thrown)
    return functools.partial(generator.send, sent)


def _async_generator(function: Callable[..., Any], block: Callable[..., Block]) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        inside = block(args, kwargs)
        await inside.aopen()
        items: list[Any] = []
        inside.produced(items)
        generator = function(*args, **kwargs)
        resume = functools.partial(generator.asend, None)
        try:
            while True:
                with inside.here:
                    item = await resume()
                items.append(item)
                try:
                    resume = functools.partial(generator.asend, (yield item))
                except GeneratorExit:
                    raise
                except BaseException as thrown:  # noqa: BLE001 - whatever the consumer throws in
                    resume = functools.partial(generator.athrow, thrown)
        except StopAsyncIteration:
            inside.close()
        except BaseException as error:
            with inside.here:
                await generator.aclose()
            inside.close(error)
            raise

    return call
