"""How many tokens a text will be, told before it is sent and not too few: pure Python, no vocabulary, no download.

A byte-pair encoder joins what it has often seen together, so a text costs, character by character, what its
neighbours make unlikely: in a word, ``th`` adds next to nothing, ``qx`` a whole token. `token_weights` has a weight
for every pair of neighbours; a text's estimate is their sum, less what pairs cannot see: that a frequent word is one
token, and so is what stands between two strings of JSON. The weights were fitted so that the sum stays above the
larger of the counts under OpenAI's o200k_base and cl100k_base, and close to it, on prose in 450 languages, code, data
and random text; ``benchmarks/estimates.py`` measures how close. Each byte is at worst one token, so no estimate is
above the number of UTF-8 bytes.

Three kinds of text can cost more than estimated: a few rare signs repeated over and over, which tell nothing to their
neighbours; one in thousands of fragments of a line or two, by a token; and what is sent to a model whose vocabulary
is poorer than both of OpenAI's.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import repeat
from typing import Any, TypeAlias, cast

from shearpin.rules.token_weights import UNIT, tables

REPLY_OVERHEAD = 3
"""Tokens that prime the reply, once a request. This and `MESSAGE_OVERHEAD`: OpenAI's guide to counting tokens."""

MESSAGE_OVERHEAD = 4
"""Tokens around each message (three) and for its role (one)."""

TOOL_OVERHEAD = 4
"""Tokens around a tool's definition, beyond those of its JSON: with few parameters that is less than OpenAI counts."""

CALL_OVERHEAD = 3
"""Tokens around a tool call. Nobody documents them; a call is taken for a message of its own."""

IMAGE_TOKENS = 1600
"""An image of any size: at most 1445 for gpt-4o (85, and 170 for each of 8 tiles), about 1600 for Claude."""

LOW_DETAIL_IMAGE_TOKENS = 85
"""An image sent with ``detail: low``, as OpenAI's guide to images has it."""

AUDIO_TOKENS = 600
"""Audio of unknown length is taken for a minute, at OpenAI's ten tokens a second."""

FILE_TOKENS = 4000
"""A file of unknown size is taken for a few pages; Anthropic counts 1500 to 3000 tokens for a page of a PDF."""

_BYTES_PER_AUDIO_TOKEN = 400  # speech at 32 kbit/s, the poorest that is usual, is 4000 bytes a second
_BYTES_PER_FILE_TOKEN = 16
_LONGEST_ADDRESS = 512
_SLACK = 3 * UNIT  # a short text has no room to even out
_PART_OVERHEAD = 2
_AS_SENT = (",", ":")  # clients write requests without spaces
_MENTIONED = ("name", "tool_call_id", "refusal", "reasoning", "reasoning_content", "function_call")

Piece: TypeAlias = str | int  # a text, or tokens that are no text


def estimate_text(text: str) -> int:
    """Tokens of `text`: 0 when it is empty, else enough for both of OpenAI's encodings.

    >>> estimate_text("The quick brown fox jumps over the lazy dog."), estimate_text("")
    (17, 0)
    """
    return _sum((text,))


def estimate_message(message: Mapping[str, Any]) -> int:
    """Tokens of one chat message and of what surrounds it: content (text or parts), tool calls, name, reasoning.

    Knows the parts of OpenAI, Anthropic and LangChain; one of another type counts as its JSON. Images, audio and
    files count as the constants of this module.
    """
    try:
        return MESSAGE_OVERHEAD + _sum(_message(message))
    except RecursionError:  # parts in parts in parts
        return MESSAGE_OVERHEAD + _sum((_json(message),))


def estimate_tools(tools: Sequence[Mapping[str, Any]]) -> int:
    """Tokens of tool definitions, in OpenAI's shape (``{"type": "function", "function": {...}}``) or flat."""
    functions = [(_mapping(tool) or {}).get("function") or tool for tool in _items(tools)]
    return sum(TOOL_OVERHEAD + _sum((_json(function, _AS_SENT),)) for function in functions)


# --- the weight of a text ---------------------------------------------------------------------------------------------


def _sum(pieces: Iterable[Piece]) -> int:
    """The slack is added once, however many pieces: what is short evens out with its neighbours."""
    fixed = bytes_ = units = 0
    for piece in pieces:
        if isinstance(piece, int):
            fixed += piece
        else:
            size, weight = _weigh(piece)
            bytes_ += size
            units += min(weight, size * UNIT)
    return fixed + min(bytes_, -(-(units + _SLACK) // UNIT))


def _weigh(text: str) -> tuple[int, int]:
    """The bytes of a text, and its weight."""
    if text.isascii():
        size, data = len(text), text.encode("ascii")
    else:
        size, data = len(text.encode("utf-8", "surrogatepass")), text.translate(tables()[0]).encode("latin-1")
    letters = data.translate(_LETTERS_ONLY)
    saved = sum(map(_savings().get, letters.split(), repeat(0)))
    shape = data.translate(_SHAPE)
    if b'"' in shape:
        saved += sum(units * shape.count(run) for run, units in _JSON_RUNS)
    if _LONG_WORD in shape:
        saved -= sum(_shortfall(word) for word in letters.split() if len(word) >= len(_LONG_WORD))
    if b"  " in data:
        gaps = data.translate(_GAPS)
        saved -= gaps.count(b"x  ") * _GAP + gaps.count(b"\n  ") * _INDENT
    return size, _pairs(data) - saved


def _pairs(data: bytes) -> int:
    """Neighbours are read as one 16-bit number: the pairs that begin at even places, then those at odd places."""
    weight = tables()[1].__getitem__
    pairs = memoryview(b"\n" + data)
    even, odd = pairs[: len(pairs) & ~1], pairs[1 : len(pairs) - (len(pairs) & 1 ^ 1)]
    return sum(map(weight, even.cast("H"))) + sum(map(weight, odd.cast("H")))


def _shortfall(word: bytes) -> int:
    """What the pairs of an endless word lack: easy neighbours over and over are cheap in words, not in ``ererer``."""
    return max(0, len(word) * _LONG_WORD_UNITS - _pairs(word))


@cache
def _savings() -> dict[bytes, int]:
    """What a frequent word costs less than its pairs, between two spaces; a little is left to its neighbours."""
    saved = {word: _pairs(b" %s " % word) - _pairs(b" ") - _ONE_WORD for word in _WORDS.encode().split()}
    return {word: units for word, units in saved.items() if units > 0}


_ASCII = 128
_IN_WORDS = b"'-_" + string.ascii_letters.encode() + bytes(range(_ASCII, 256))
_LETTERS_ONLY = bytes(code if code in _IN_WORDS else 32 for code in range(256))
"""What separates words becomes a space, but not what the pairs of a joined word count on, nor the apostrophe:
cl100k_base splits ``'description`` after the d."""

_SHAPE = bytes(ord("a") if code < _ASCII and chr(code).isalpha() else code for code in range(256))
_JSON_RUNS = ((b'a":"a', 28), (b'a","a', 24), (b'a":{"a', 26))
"""What stands between two strings of compact JSON is one token; what its pairs cost too much."""

_GAPS = bytes(code if code < _ASCII and chr(code).isspace() else ord("x") for code in range(256))
_GAP = 16
"""A run of spaces within a line is a token of its own, save its last; its pairs would pass for those of an indent."""
_INDENT = 8
"""What an indent costs too little where most of a line is `_WORDS`: the pairs count on dearer neighbours."""

_ONE_WORD = UNIT + 5
_LONG_WORD = b"a" * 25
_LONG_WORD_UNITS = UNIT // 2

# --- the pieces of a message ------------------------------------------------------------------------------------------


def _message(message: Mapping[str, Any]) -> Iterator[Piece]:
    yield from _content(message.get("content"))
    for call in _items(message.get("tool_calls")):
        yield CALL_OVERHEAD
        yield from _call(call)
    for key in _MENTIONED:
        if message.get(key):
            yield 1
            yield _json(message[key])


def _json(value: object, separators: tuple[str, str] | None = None) -> str:
    """A string as it stands, anything else as its JSON."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, separators=separators, default=str)
    except (TypeError, ValueError, RecursionError):  # keys that are no strings, a list in itself, a thousand levels
        return " ".join(_leaves(value))


def _leaves(value: object) -> Iterator[str]:
    """The text of whatever is in nested containers, each visited once."""
    waiting, seen = [value], set[int]()
    while waiting:
        item = waiting.pop()
        place = id(item)
        if not isinstance(item, Mapping | list | tuple | set):
            yield f'"{item}",'
        elif place not in seen:
            seen.add(place)
            yield "{},"
            waiting += [*cast("Mapping[object, object]", item).values()] if isinstance(item, Mapping) else []
            waiting += cast("Iterable[object]", item)


def _mapping(value: object) -> Mapping[str, Any] | None:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else None


def _items(value: object) -> Iterable[object]:
    single = () if value is None else (value,)
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return single
    return cast("Iterable[object]", value)


def _call(call: object) -> Iterator[str]:
    """A tool call, its name and arguments beside its id or nested in ``function``."""
    fields = _mapping(call)
    if fields is None:
        yield _json(call)
        return
    for key, value in fields.items():
        nested = _mapping(value) if key == "function" else None
        yield from map(_json, nested.values() if nested else (value,) if value else ())


def _content(content: object) -> Iterator[Piece]:
    single = isinstance(content, str)
    for part in _items(content):
        if not single:
            yield _PART_OVERHEAD
        yield from _part(part)


def _part(part: object) -> Iterator[Piece]:
    fields = _mapping(part)
    kind = str(fields.get("type", "")) if fields else ""
    if fields is None:
        yield _json(part)
    elif kind == "tool_result":
        yield from (CALL_OVERHEAD, _json(fields.get("tool_use_id", "")))
        yield from _content(fields.get("content"))
    elif "image" in kind:
        yield _image(fields)
    elif "audio" in kind:
        yield -(-_payload(fields) // _BYTES_PER_AUDIO_TOKEN) or AUDIO_TOKENS
    elif any(word in kind for word in ("file", "document", "video")):
        yield max(FILE_TOKENS, _payload(fields) // _BYTES_PER_FILE_TOKEN)
    else:
        yield _written(fields)


def _written(fields: Mapping[str, Any]) -> str:
    """A part that is text under one of the names providers have for it, or whatever else can be written as JSON."""
    texts = (fields.get(key) for key in ("text", "refusal", "thinking", "reasoning"))
    return next((text for text in texts if isinstance(text, str)), None) or _json(fields)


def _image(fields: Mapping[str, Any]) -> int:
    detail = (_mapping(fields.get("image_url")) or fields).get("detail")
    return LOW_DETAIL_IMAGE_TOKENS if detail == "low" else IMAGE_TOKENS


def _payload(fields: Mapping[str, Any]) -> int:
    """Bytes a part carries as base64: its longest string, here or one level down; 0 for a mere name or address."""
    strings = [inner for value in fields.values() for inner in ((_mapping(value) or {"": value}).values())]
    longest = max((len(string) for string in strings if isinstance(string, str)), default=0)
    return longest * 3 // 4 if longest > _LONGEST_ADDRESS else 0


_WORDS = """
about account actually add added additional Address address after again allow almost already although always
analysis answer answers anything API api argument arguments Array array assign assistant attribute available away
background because been begin being between body bool boolean both branch break cache calls change changes child
children classes commands common community configuration connection context conversation created current currently
custom Data data database datetime David day days default defined definition delete deleted Description description
detail details dev Development development dictionary different dir directory disabled display div docs document
documentation does down download duration during dynamic each early east either elif Email email empty Environment
environment Error error errors especially even event events Example example examples except Exception exception
execution export Expression expression extends extensions Extra extra failed fails failure family features fetch
field fields filter Final First first fixed flight float follow format found frame full function functions general
get getting github given global going group groups guard hash header headers height help hidden html HTTP http https
human img implementation implements import important include included includes including info Information
information init install installed instance instances instead integer interface international issue issues item
items John join JSON json just keep KEY Key key keys keyword keywords know known label Language language latest law
learn least length level library like limit link little load local look looking loop main make making map mapping
March market match matches matching max maximum may media member members memory message messages Metadata metadata
method Michael might model models module modules most much must Name name names national need needed negative
network New new next night not Note notes now null Number number obj Object object objects offset operation option
optional organization otherwise output override package param parameter parameters params parts pattern payment pip
pkg points possible problem product products Program program Project project projects properties Public public push
Python python raise raised raises read reading reason reference regex release replace report repository request
requests require Required required research resource resources response responses result results Return return
returned Returns returns right rows rules run running same school search service settings short should show shown
single size small social Software software Source source span special specific src start started statement static
Status status step strings style success such summary support supported System system systems tags take taken taking
target task team temperature their third though thought through throw token tool tools total trying turn two union
until Update update URL url Usage usage using usually Version version versions video warning watch website week
weeks well whether which width words working would written www year years yield You you your
"""
"""One token in both vocabularies, with a space before it and without."""
