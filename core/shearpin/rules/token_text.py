"""The weight of a text: what neighbouring characters cost, what pairs cannot see, and what repetition adds.

The weights were fitted to whole texts: what they lack for one word they have too much for the next. Nothing makes up
for a word that is a good part of its text, nor for a stretch of few characters over and over: `_surely` says what
those cost at most.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise, repeat

from shearpin.rules.token_weights import UNIT, tables

_MARGIN = 64
"""Every weight is raised by one part in so many."""
_OFTEN, _SHARE = 2, 10
"""Repeated more often, and more than one in so many of a text's words or characters: nothing makes up for it."""
_LONG = 24
"""Characters to a word, at the most, of a text that has words."""
_WINDOW, _FEW, _VARIED = 64, 4, 8
"""Characters that are looked at together; they are few where no more are different than four and an eighth of them."""
_MANY = _FEW + _WINDOW // _VARIED + 3
"""More different characters than this, with three of white space, are never few."""


def weigh(text: str) -> tuple[int, int]:
    """The bytes of `text` in UTF-8, and its weight, in units of a token: at most one token a byte."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    data = _classes(text)
    words = data.translate(_LETTERS_ONLY).split()
    units = _pairs(b"\n" + data) - sum(map(_SAVED.get, words, repeat(0))) + _between(data)
    units += _monotony(text, words if text.isascii() else text.split())
    return size, max(0, min(units + units // _MARGIN, size * UNIT))


def _classes(text: str) -> bytes:
    return text.encode("ascii") if text.isascii() else text.translate(_TABLE).encode("latin-1")


def _pairs(data: bytes) -> int:
    """Neighbours are read as one 16-bit number: the pairs that begin at even places, then those at odd places."""
    weight, pairs = _WEIGHTS.__getitem__, memoryview(data)
    even, odd = pairs[: len(pairs) & ~1], pairs[1 : len(pairs) - (len(pairs) & 1 ^ 1)]
    return sum(map(weight, even.cast("H"))) + sum(map(weight, odd.cast("H")))


def _between(data: bytes) -> int:
    """What stands between two strings of JSON is one token; a run of spaces within a line is a token, save its last."""
    units = 0
    if b'":"' in data or b'","' in data or b'":{"' in data:
        shape = data.translate(_SHAPE)
        units -= sum(saved * shape.count(run) for run, saved in _JSON_RUNS)
    if b"  " in data:
        gaps = data.translate(_GAPS)
        within = gaps.count(b"x  ")
        units += within * (UNIT if within * _DENSE > len(data) else _GAP) + gaps.count(b"\n  ") * _INDENT
    return units


def _monotony(text: str, words: Sequence[str | bytes]) -> int:
    """What a text weighs too little for being a few characters, or words, over and over."""
    number, different = len(words), set(words)
    sparse = number <= _OFTEN or number * _LONG <= len(text)
    endless = not sparse and any(len(set(word)) * 3 < len(word) for word in different if len(word) > _LONG)
    dull = _dull(text) if sparse or endless else None
    often = max(_least(text), number // _SHARE)
    few = sparse or len(different) * 3 < number * 2
    if few and (sparse or any(times > often and word not in _SAVED for word, times in Counter(words).items())):
        return max(dull or 0, _repeated(text, dull))
    return dull or 0


def _is_dull(part: str | bytes) -> bool:
    return len(set(part)) <= _FEW + len(part) // _VARIED


def _dull(text: str) -> int:
    """What stretches of a few characters over and over weigh too little."""
    parts = (text[begin : begin + _WINDOW] for begin in range(0, len(text), _WINDOW))
    return sum(_lacking(part) for part in parts if len(set(part[:_LONG])) <= _MANY and _is_dull(" ".join(part.split())))


def _repeated(text: str, dull: int | None) -> int:
    """What chunks that are a good part of a text weigh too little, cut at the one or the other common separator."""
    return max(_cut(separator, text, dull) for separator in sorted(_SEPARATORS, key=text.count)[-2:])


def _cut(separator: str, text: str, dull: int | None) -> int:
    chunks = text.split(separator)
    if len(chunks) <= _OFTEN or len(chunks) * _LONG <= len(text):
        return _dull(text) if dull is None else dull
    least = _least(text)
    return sum(
        times * _lacking(separator + chunk)
        for chunk, times in Counter(chunks).items()
        if times > least
        and 0 < len(chunk) <= _WINDOW
        and (times * _SHARE > len(chunks) or times * len(chunk) * _SHARE > len(text))
    )


def _least(text: str) -> int:
    return _OFTEN if len(text) > _WINDOW else 1


_SEPARATORS = (" ", '"', "\n", ",", "/", ".", "-", "_", "\t", "'")


@lru_cache(1024)
def _lacking(text: str) -> int:
    """What a stretch weighs too little where nothing makes up for it."""
    data = _classes(text)
    return max(0, _surely(data) - _pairs(data + data[:1]))


def _surely(data: bytes) -> int:
    """A weight that is above what such a text costs, also where its pieces are joined as seldom as can be."""
    total = 0
    for match in _RUNS.finditer(data):
        total += _RUN_COSTS[match.lastgroup or "sign"](match[0])
    return total


def _word_cost(run: bytes) -> int:
    word = run.strip()
    if word in _WHOLE:
        return UNIT
    if word[:1].isupper():
        return UNIT + _word_cost(word.lower() if word.lower() in _WHOLE else word[1:])
    return max(-(-len(word) * 4 // 5) * UNIT, _pairs(word) + UNIT)


def _white_cost(run: bytes) -> int:
    """Equal ones are joined, different ones at times; the last one belongs to what follows."""
    changes = sum(left != right for left, right in pairwise(run))
    if not changes:
        return len(run) * UNIT if run[:1] == b"\r" else UNIT + (UNIT if run[:1] == b"\t" else len(run) * UNIT // _WHITE)
    return 2 * UNIT + min(changes * UNIT, (len(run) - 2) * UNIT * 3 // 4) + run.count(b"\r") * UNIT


def _sign_cost(run: bytes) -> int:
    price: int = _PRICES[run[-1]]
    return max(UNIT, -(-price // UNIT) * UNIT, price * 4 // 3) + (UNIT // 3 if price else 0)


_RUNS = re.compile(
    rb" ?(?P<word>[A-Z]?[a-z]+)|(?P<digits> *[0-9]+)|(?P<white>[ \t\n\r]{2,})|(?P<line>([-=*#_/])\5+)"
    rb"|(?P<sign>\"[:,]| ?[A-Z!-/:-@[-`{-~]|.)",
    re.DOTALL,
)
_LINE, _WHITE = 16, 32
"""At least so many equal signs, of those often drawn out to a line, are a token; of spaces and ends of lines, twice."""
_RUN_COSTS: dict[str, Callable[[bytes], int]] = {
    "word": _word_cost,
    "digits": lambda run: -(-len(run.lstrip()) // 3) * UNIT + (2 * UNIT if run[:1] == b" " else 0),
    "white": _white_cost,
    "line": lambda run: UNIT + len(run) * UNIT // _LINE,
    "sign": _sign_cost,
}

_ASCII = 128
_IN_WORDS = b"'-_" + string.ascii_letters.encode() + bytes(range(_ASCII, 256))
_LETTERS_ONLY = bytes(code if code in _IN_WORDS else 32 for code in range(256))
"""What separates words becomes a space, but not what the pairs of a joined word count on, nor the apostrophe:
cl100k_base splits ``'description`` after the d."""

_SHAPE = bytes(ord("a") if code < _ASCII and chr(code).isalpha() else code for code in range(256))
_JSON_RUNS = ((b'a":"a', 28), (b'a","a', 24), (b'a":{"a', 26))

_GAPS = bytes(code if chr(code) in " \n" else ord("x") for code in range(256))
_GAP, _DENSE = 20, 6
"""A run of spaces within a line, whose pairs would pass for those of an indent; a token where there are many."""
_INDENT = 14
"""What an indent costs too little where most of a line is `_WORDS`: the pairs count on dearer neighbours."""

_ONE_WORD = UNIT + 5

_WORDS = """
about account actually add added additional Address address after again allow almost already although always
analysis answer answers anything API api argument arguments Array array assign assistant async attribute available
await away background because been begin being between body bool boolean border both branch break cache calls catch
change changes child children classes columns commands common community configuration connection context
conversation created current currently custom Data data database datetime David day days default defined definition
delete deleted Description description detail details dev Development development dictionary different dir directory
disabled display div docs document documentation does down download duration during dynamic each early east either
elif Email email empty Environment environment equals Error error errors especially even event events Example
example examples except Exception exception execution export Expression expression extends extensions Extra extra
failed fails failure family features fetch field fields filter Final First first fixed flight float focus follow
format found frame full function functions general get getting github given global going group groups guard hash
header headers height help hidden html HTTP http https human img implementation implements import important include
included includes including info Information information init install installed instance instances instead integer
interface international issue issues item items John join JSON json just keep KEY Key key keys keyword keywords know
known label Language language latest law learn least length level library like limit link little load local location
look looking loop main make making map mapping March market match matches matching max maximum may media member
members memory message messages Metadata metadata method Michael might model models module modules most much must
Name name names national need needed negative network New new next night not Note notes now null Number number obj
Object object objects offset operation option Optional optional organization otherwise output Override override
package padding param parameter parameters params parts pattern payment pip pkg points possible problem product
products Program program Project project projects properties prototype Public public push Python python raise raised
raises read reading reason reference regex release replace report repository request requests require Required
required research resource resources response responses result results Return return returned Returns returns right
rows rules run running same school search service settings short should show shown single size small social Software
software Source source span special specific src start started statement static Status status step stream strings
style success such summary support supported System system systems tags take taken taking target task team
temperature template their third though thought through throw token tool tools total transform trying turn two union
until Update update URL url Usage usage using usually UUID Version version versions video warning watch website week
weeks well whether which width window words working would written www year years yield You you your
"""
"""One token in both vocabularies, with a space before it and without."""
_PLAIN_WORDS = """
aber able al all als also amount An an And and any Are are As as At at au auf aus avec bad bar be before bei best
better big bis book bus But but By by call Can can car case ce city class clear close code como company con content
could country das date de def del den der des did die Do do Does du easy ein el elle else en end entre er es est
este et fact False false few file files foo For for free From from good great ha had hand hard has hat have He he
hello her high his host house How how id If if il In in into Is is ist It it its la large las last le les life line
lines list lo long los low man me mit more my ne No no noch None nos Not oder Of of okay old On on one only open Or
or order other our out over own page par para part pas path people per phone place plus point por port pour price
put que qui real role se sei sein self ser set She she si sie simple sin so some son state string su sur sure sus
test tests text than That that The the Their them then There there These these They they This this time title To to
todo True true try type un una und under une up us use used user value values very via von vor vs war Was was water
We we were What what When when Where where Which while Who who whole why wie will With with woman word work world
Yes young zu
"""
"""One token too, which their pairs do not exceed by much."""

_TABLE, _WEIGHTS, _PRICES = tables()
_SAVED = {
    word: saved for word in _WORDS.encode().split() if (saved := _pairs(b" %s " % word) - _pairs(b"  ") - _ONE_WORD) > 0
}
"""What a frequent word costs less than its pairs, between two spaces; a little is left to its neighbours."""
_WHOLE = frozenset(f"{_WORDS} {_PLAIN_WORDS}".encode().split())
