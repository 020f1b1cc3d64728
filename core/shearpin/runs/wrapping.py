"""Any function as a block: plain, coroutine, generator and async generator functions alike.

A generator's body runs in its consumer's context, piece by piece, so its place is entered and left around every
piece: between two items the consumer's own calls do not belong to it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from types import CoroutineType
from typing import Any, TypeVar, cast

from shearpin.errors import ToldError
from shearpin.runs.block import Block

Function = TypeVar("Function", bound=Callable[..., Any])
Arguments = dict[str, Any]
Make = Callable[[Arguments], Block]


def name_of(function: Callable[..., Any]) -> str:
    """What a callable is called: a partial like the function in it, an object with ``__call__`` like its class."""
    inner = _inner(function)
    return getattr(inner, "__name__", None) or type(inner).__name__


def wrap(function: Function, make: Make, by: object = None) -> Function:
    """`function` with every call inside a new block, made from its arguments by name.

    Wrapped `by` the same before, it is as it should be.
    """
    if isinstance(function, staticmethod | classmethod):
        method = cast("staticmethod[..., Any] | classmethod[Any, ..., Any]", function)
        return cast("Function", type(method)(wrap(method.__func__, make, by)))
    if by is not None and _wrapped_before(function, by):
        return function
    inner, signature = _inner(function), _signature(function)

    def block(args: tuple[Any, ...], kwargs: Arguments) -> Block:
        return make(_named(signature, args, kwargs))

    wrapped = cast("Any", functools.wraps(inner)(_shape(inner)(function, block)))
    wrapped.__name__, wrapped.__wrapped__ = name_of(function), function
    wrapped.__shearpin__ = (by, wrapped)
    return cast("Function", wrapped)


def _wrapped_before(function: Any, by: object) -> bool:  # noqa: ANN401 - any callable
    """Whoever copies a function's attributes with `functools.wraps` copies our mark: then it names another function."""
    while True:
        function = getattr(function, "__func__", function)  # of a method
        mark = getattr(function, "__shearpin__", None)
        if type(mark) is not tuple or mark[1] is not function:
            return False
        if mark[0] == by:
            return True
        function = function.__wrapped__


def _inner(function: Callable[..., Any]) -> Callable[..., Any]:
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    return cast("Callable[..., Any]", inner)


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except ValueError:  # some builtins tell none
        return inspect.signature(lambda *args, **kwargs: None)  # noqa: ARG005


def _named(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Arguments) -> Arguments:
    """The arguments by name, defaults and further keywords among them: calls that mean the same look the same."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:  # the call itself will raise it, in its own words
        return dict(kwargs)
    bound.apply_defaults()
    named: Arguments = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        elif name not in ("self", "cls") and (kind is not inspect.Parameter.VAR_POSITIONAL or value):
            named[name] = value
    return named


def _shape(function: Callable[..., Any]) -> Callable[..., Callable[..., Any]]:
    code = function if inspect.isroutine(function) else type(function).__call__
    if inspect.isasyncgenfunction(code):
        return _async_generator
    if inspect.isgeneratorfunction(code):
        return _generator
    return _coroutine if inspect.iscoroutinefunction(code) else _plain


class _Piece:
    """Around some of a block's code: what fails in it ends the block."""

    __slots__ = ("_inside",)

    def __init__(self, inside: Block) -> None:
        self._inside = inside

    def __enter__(self) -> None:
        self._inside.here.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: object) -> None:
        self._inside.here.__exit__()
        if error is not None:
            self._inside.close(error)


def _plain(function: Callable[..., Any], block: Callable[..., Block]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> object:
        inside = block(args, kwargs)
        try:
            inside.open()
        except ToldError as told:
            return told.text
        with _Piece(inside):
            value = function(*args, **kwargs)
        if type(value) is CoroutineType:  # an async function behind a plain one: its body has not begun
            return _awaited(inside, cast("Coroutine[Any, Any, object]", value))
        return inside.hand_out(value)

    return call


async def _awaited(inside: Block, coroutine: Coroutine[Any, Any, object]) -> object:
    with _Piece(inside):
        value = await coroutine
    return inside.hand_out(value)


def _coroutine(function: Callable[..., Any], block: Callable[..., Block]) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> object:
        inside = block(args, kwargs)
        try:
            await inside.aopen()
        except ToldError as told:
            return told.text
        with _Piece(inside):
            value = await function(*args, **kwargs)
        return inside.hand_out(value)

    return call


def _generator(function: Callable[..., Any], block: Callable[..., Block]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        inside = block(args, kwargs)
        try:
            inside.open()
        except ToldError as told:
            yield told.text
            return None
        items: list[Any] = []
        inside.produced(items)
        try:
            value = yield from _pieces(function(*args, **kwargs), inside, items)
        except BaseException as error:
            inside.close(error)
            raise
        inside.close()
        return value

    return call


def _pieces(generator: Generator[Any, Any, Any], inside: Block, items: list[Any]) -> Generator[Any, Any, Any]:
    resume: Callable[[], Any] = functools.partial(next, generator)
    try:
        while True:
            with inside.here:
                item = resume()
            items.append(item)
            inside.came()
            resume = yield from _handed_out(generator, item)
    except StopIteration as finished:
        return finished.value
    finally:
        with inside.here:
            generator.close()


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
        try:
            await inside.aopen()
        except ToldError as told:
            yield told.text
            return
        items: list[Any] = []
        inside.produced(items)
        try:
            generator = function(*args, **kwargs)
            resume = functools.partial(generator.asend, None)
            try:
                while True:
                    with inside.here:
                        item = await resume()
                    items.append(item)
                    inside.came()
                    try:
                        resume = functools.partial(generator.asend, (yield item))
                    except GeneratorExit:
                        raise
                    except BaseException as thrown:  # noqa: BLE001 - whatever the consumer throws in
                        resume = functools.partial(generator.athrow, thrown)
            finally:
                with inside.here:
                    await generator.aclose()
        except StopAsyncIteration:
            inside.close()
        except BaseException as error:
            inside.close(error)
            raise

    return call
