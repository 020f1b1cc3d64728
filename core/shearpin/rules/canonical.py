"""A call without what varies for no reason: one key for each degree of likeness to other calls.

Only plain data comes in, it is hashed when it is first needed, and numbers and a few words are all that is kept.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from enum import IntEnum
from itertools import count, islice
from typing import Any, TypeAlias, TypeGuard

from shearpin.rules.manners import HANDOFF, MODEL, PLAIN, Manner, manner_of, words
from shearpin.trace import Span
from shearpin.trace.objects import UNREAD
from shearpin.trace.pool import ROOT, Chain

CONTENT = 2_000
"""Characters from which a text is content, compared as it stands: no model varies that much by accident."""
_MANY = 200
"""Items from which a list is content."""
_DEPTH = 70
"""Deeper than plain data ever is."""
_LOOK_BACK = 6
"""Messages at the end of a prompt among which the question is sought."""
_OWN_WORDS = 40
"""Characters from which a text of the model is more than a yes or no."""


class Rung(IntEnum):
    """How alike two calls are, from the same to barely."""

    CALL = 0
    """The same tool and arguments, whatever the order of keys, case and white space."""
    TURN = 1
    """The same question to a model that said the same before it."""
    WORDS = 2
    """The same, whatever the order of words in a text."""
    BOOKKEEPING = 3
    """The same but for arguments that only number or date the call: ``attempt``, ``request_id``, ``ts``."""
    NUMBERS = 4
    """The same words, but for those with a digit in them."""
    TOOL = 5
    """The same tool."""


Keys: TypeAlias = tuple[int | None, int | None, int | None, int | None, int | None, int | None]
"""A key for each `Rung`, equal for calls of the same name that are alike; None on a rung the call lacks."""


class Call:
    """A call as it is remembered."""

    __slots__ = ("_exact", "_keys", "_said", "manner", "name", "span")

    def __init__(self, span: Span, name: str, manner: Manner, keys: Keys | None = None) -> None:
        self.span, self.name, self.manner = span, name, manner
        self._exact: int | None = None
        self._keys = keys
        self._said: frozenset[str] | None = None

    @property
    def exact(self) -> int | None:
        """Its key on the first rung; for most calls it is the only one that is ever asked for."""
        if self._exact is None:
            known = self._keys is not None or self.manner.model
            self._exact = self.keys[Rung.CALL] if known else _exact_key(self.span.input)
        return self._exact

    @property
    def keys(self) -> Keys:
        """Its key on each rung."""
        if self._keys is None:
            self._keys = _keys_of_prompt(self.span.stored_input) if self.manner.model else _keys_of(self.span.input)
        return self._keys

    def key(self, rung: Rung) -> int | None:
        """Its key on one rung; where it can be without a look at the others."""
        if rung is Rung.CALL:
            return self.exact
        if rung is Rung.TURN and not self.manner.model:
            return None
        if rung is Rung.TOOL:
            return None if self.manner.model or self.manner.handoff else 0
        return self.keys[rung]

    @property
    def said(self) -> frozenset[str]:
        """The words and numbers it was made with."""
        if self._said is None:
            self._said = frozenset(words(text_of(self.span.input)[:CONTENT].lower().replace("\\n", " ")))
        return self._said


def read_call(span: Span) -> Call | None:
    """The call that `span` is, or None for a kind of span that is none."""
    if span.kind == "tool":
        manner = manner_of(span.name)
        if manner.handoff and _only_talk(span.input):
            return Call(span, span.name, manner, _THE_SAME)
        return Call(span, span.name, PLAIN if manner.handoff else manner)
    if span.kind == "handoff":
        way = span.input
        name = f"{way.get('from')} -> {way.get('to')}" if is_dict(way) else span.name
        return Call(span, name, HANDOFF, _THE_SAME)
    if span.kind == "llm":
        return Call(span, "", MODEL)
    return None


# --- what a hand-over tells ---------------------------------------------------------------------------------------

_THE_SAME: Keys = (0, None, None, None, None, None)
_TALK = frozenset(
    words("reason message task summary context note notes input query content description instructions request text")
)


def _only_talk(arguments: object) -> bool:
    """A transfer that carries an amount or an account moves more than the conversation."""
    if not is_dict(arguments):
        return arguments is None or isinstance(arguments, str)
    return all(key in _TALK or (isinstance(value, str) and " " in value) for key, value in arguments.items())


# --- what arguments tell ------------------------------------------------------------------------------------------

STAMP = re.compile(
    r"\b(\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\d:.,]*(Z|[+-]\d\d:?\d\d)?|\d{10,19}(\.\d+)?|"
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{16,})(?!\w)",
    re.IGNORECASE,
)
"""A clock or a random id."""
HUGE = 1 << 64
FILLER = frozenset(words("a an and at by for from in is of on or please the to with"))
_BOOKKEEPING = re.compile(
    r"(attempts?|retry|retries|try|tries|poll|nonce|salt|ts|timestamp|now|rand|random|counter|iteration|seq|sequence|"
    r"cursor|page_?token|cache_?bust(er)?|(request|req|trace|span|correlation|idempotency)_?(id|key|token))",
    re.IGNORECASE,
)


def _keys_of(arguments: object) -> Keys:
    exact: list[tuple[str, int]] = []
    spoken: list[tuple[str, list[str]]] = []
    for key, value in named(arguments).items():
        texts: list[str] = []
        exact.append((str(key), _digest(value, texts)))
        spoken.append((str(key), texts))
    unordered = frozenset((key, tuple(frozenset(words(text)) for text in texts)) for key, texts in spoken)
    steady = [pair for pair in exact if not _BOOKKEEPING.fullmatch(pair[0])]
    bare = [STAMP.sub(" ", text) for _, texts in spoken for text in texts]
    wording = frozenset(word for text in bare for word in words(text) if word.isalpha()) - FILLER
    return (
        hash(frozenset(exact)),
        None,
        hash(unordered),
        hash(frozenset(steady)) if 0 < len(steady) < len(exact) else None,
        hash(wording) if wording else None,
        0,
    )


def _exact_key(arguments: object) -> int:
    return hash(frozenset([(str(key), _digest(value, [])) for key, value in named(arguments).items()]))


def named(arguments: object) -> dict[str, Any]:
    """Arguments by their names, also where there is only one that has none."""
    return arguments if is_dict(arguments) else {"": arguments}


def _keys_of_prompt(messages: object) -> Keys:
    """A model is asked by the newest message that is not its own; its last own words tell whether it goes on."""
    asked = own = None
    for message in islice(_newest_first(messages), _LOOK_BACK):
        if message.get("role") == "assistant":
            own = own or message.get("content")
        elif asked is None:
            asked = message.get("content")
    goes_on = isinstance(own, str) and len(own) >= _OWN_WORDS
    question, words_before = _digest(asked, []), None if own is None else _digest(own, [])
    turn = None if words_before is None else hash((question, words_before))
    return question, turn, None, words_before if goes_on else None, None, None


def _newest_first(messages: object) -> Iterator[dict[str, Any]]:
    """The messages from the last one back, without walking the whole conversation at every call."""
    if isinstance(messages, Chain):
        node = messages.node
        while node != ROOT:
            node, body = messages.pool.links[node]
            message = messages.pool.bodies[body]
            if is_dict(message):
                yield message
    elif is_list(messages):
        yield from (message for message in reversed(messages) if is_dict(message))


def texts_of(value: object) -> list[str]:
    """What a value says in words, without the names in it."""
    texts: list[str] = []
    _digest(value, texts)
    return texts


def _digest(value: object, texts: list[str], depth: int = 0, many: int = _MANY) -> int:
    """A hash that ignores the order of keys, case and white space; `texts` gets what the value says in words."""
    if isinstance(value, str):
        if value.endswith(UNREAD):  # nobody knows what it holds: it is like no other
            value = _as_word(f"{value} {next(_unread)}")
        text = " ".join(value.lower().split()) if len(value) <= CONTENT else _as_word(value)
        texts.append(text)
        return hash(text)
    if is_dict(value) or is_list(value):
        if len(value) > many:
            texts.append(_as_word(text_of(value)))
            return hash(texts[-1])
        if depth > _DEPTH:
            return 0
        if is_dict(value):
            return hash(frozenset((str(key), _digest(item, texts, depth + 1, many)) for key, item in value.items()))
        return hash(tuple(_digest(item, texts, depth + 1, many) for item in value))
    if not isinstance(value, int) or abs(value) < HUGE:
        texts.append(str(value).lower())
    # 1, 1.0 and True are equal but not the same argument; NaN is not even equal to itself.
    return hash((type(value), value if isinstance(value, int | None) else texts[-1]))


_unread = count()
_LETTERS = str.maketrans("-0123456789", "abcdefghijk")


def _as_word(content: str) -> str:
    """Content stands in a text as one word without digits: a number would be taken for a counter."""
    return str(hash(content)).translate(_LETTERS)


def is_dict(value: object) -> TypeGuard[dict[str, Any]]:
    """Is it plain data with names?"""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Is it plain data without names?"""
    return isinstance(value, list | tuple | Chain)


_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode


def text_of(value: object) -> str:
    """Plain data as a text, the same for the same data."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    try:
        return _encode(list(value) if isinstance(value, Chain) else value)
    except (TypeError, ValueError, RecursionError):  # keys of several types, an integer of thousands of digits
        return str(_digest(value, [], many=sys.maxsize))
