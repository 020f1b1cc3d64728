"""How close `shearpin.rules.tokens` comes to exact counts: the ratio of estimate to count by kind of text.

    python benchmarks/estimates.py [--quick] [--seed N] [--write]

Exact counts come from tiktoken with the vocabularies of o200k_base and cl100k_base: from ``TIKTOKEN_CACHE_DIR``, or
from an installed litellm, which carries them. With neither, the counts stored in the tests' fixture are used. Fails
when an estimate is below the larger of both counts, or the median of a kind is more than half above it; what is made
to deceive, a few signs or syllables over and over in any script, is held to the first alone. ``--write`` counts the
fixture's texts anew and draws its random ones anew.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import os
import random
import statistics
import string
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from shearpin.rules import tokens

FIXTURE = Path(__file__).parent.parent / "tests" / "core" / "rules" / "token_counts.json"
ENCODINGS = ("o200k_base", "cl100k_base")
ALLOWED_MEDIAN = 1.5
CHATS = "chat with tools"
UNJUDGED = {"tiny", "repetition", "random words"}
"""Held to the lower bound alone: a token or two, what nobody writes, and frequent words without their sentences."""
DECEPTIVE = "deceptive: "
"""How the kinds begin that are drawn to be underestimated; held to the lower bound alone."""
SHORT = 150
"""Characters below which what is drawn is not measured: three tokens of slack weigh too much there."""

Count = Callable[[str], tuple[int, int]]
Row = tuple[int, int, int]
"""Estimate, and the count under each encoding."""


# --- exact counts -----------------------------------------------------------------------------------------------------


def exact_counter() -> Count | None:
    """Counts under both encodings, if vocabularies are at hand without a download."""
    litellm = importlib.util.find_spec("litellm")  # found, not imported: that takes seconds
    if litellm is not None and litellm.submodule_search_locations:
        folder = Path(litellm.submodule_search_locations[0]) / "litellm_core_utils" / "tokenizers"
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(folder))
    if "TIKTOKEN_CACHE_DIR" not in os.environ or importlib.util.find_spec("tiktoken") is None:
        return None
    import tiktoken

    first, second = map(tiktoken.get_encoding, ENCODINGS)
    return lambda text: (len(first.encode_ordinary(text)), len(second.encode_ordinary(text)))


def documented_count(chat: Mapping[str, Any], count: Callable[[str], int]) -> int:
    """A whole prompt as OpenAI's cookbook counts it: 3 tokens a message and 1 a name, every value, 3 for the reply.

    Tools: 7 each, name and description as one line; 3 and a line for each parameter, 3 if there are any; enumerations
    3 less and 3 for each value; 12 once.
    """
    total = 3
    for message in chat["messages"]:
        total += 3 + ("name" in message) + sum(count(_written(value)) for value in message.values())
    for tool in chat["tools"]:
        function = tool["function"]
        total += 7 + count(f"{function['name']}:{function['description'].rstrip('.')}")
        total += 3 * bool(function["parameters"]["properties"])
        for name, schema in function["parameters"]["properties"].items():
            total += 3 + count(f"{name}:{schema['type']}:{schema.get('description', '').rstrip('.')}")
            total += sum(3 + count(value) for value in schema.get("enum", ())) - 3 * ("enum" in schema)
    return total + 12 * bool(chat["tools"])


def _written(value: object) -> str:
    if isinstance(value, list):  # tool calls: their values, as those of the message
        return "".join(part for call in cast("list[dict[str, str]]", value) for part in call.values())
    return str(value)


def estimate_chat(chat: Mapping[str, Any]) -> int:
    """The same prompt as Shearpin reserves for it."""
    return (
        tokens.REPLY_OVERHEAD
        + sum(map(tokens.estimate_message, chat["messages"]))
        + tokens.estimate_tools(chat["tools"])
    )


# --- random texts -----------------------------------------------------------------------------------------------------

SCRIPTS = (
    (0xC0, 0x17F),
    (0x3B1, 0x3C9),
    (0x410, 0x44F),
    (0x5D0, 0x5EA),
    (0x621, 0x64A),
    (0x904, 0x939),
    (0xE01, 0xE2E),
)
MORE_SCRIPTS = (
    (0x10D0, 0x10F0),
    (0x1200, 0x1340),
    (0x3041, 0x3096),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0x1F300, 0x1F64F),
)


def draw(rng: random.Random, words: Sequence[str], prose: Sequence[str]) -> Iterator[tuple[str, str]]:
    """One text of each kind that can be drawn at random, with the name of its kind."""
    size = rng.choice((120, 300, 900))
    raw = rng.randbytes(size)
    yield "base64", base64.b64encode(raw).decode()
    yield "hex", raw.hex()
    yield "uuids", "\n".join(_uuid(rng) for _ in range(size // 20))
    record = {rng.choice(words): _value(rng, words, 0) for _ in range(8)}
    yield "json, minified", json.dumps(record, separators=(",", ":"), ensure_ascii=False)
    yield "json, pretty", json.dumps(record, indent=2, ensure_ascii=False)
    yield (
        "numbers",
        rng.choice((" ", ", ", "\n")).join(str(rng.randrange(10 ** rng.randint(1, 9))) for _ in range(size // 4)),
    )
    yield (
        "decimals",
        rng.choice((" ", ", ", "\t")).join(f"{rng.uniform(-999, 999):.{rng.randint(1, 9)}f}" for _ in range(size // 8)),
    )
    yield (
        "white space",
        "".join(
            rng.choice((" " * rng.randint(1, 24), "\n" * rng.randint(1, 4), "\t", rng.choice(words)))
            for _ in range(size // 3)
        ),
    )
    yield "urls", "\n".join(_url(rng, words) for _ in range(3))
    yield (
        "table",
        "\n".join(f"| {' | '.join(_cell(rng, words).ljust(10) for _ in range(4))} |" for _ in range(size // 20)),
    )
    yield "csv", "\n".join(",".join(_cell(rng, words) for _ in range(6)) for _ in range(size // 20))
    yield "log", "\n".join(_log_line(rng, words) for _ in range(size // 40))
    yield "tool schema", json.dumps(_tool(rng, words))
    yield "random letters", "".join(rng.choices(string.ascii_letters, k=size))
    yield "random ASCII", "".join(rng.choices(string.printable, k=size))
    yield (
        "random unicode",
        "".join(
            map(chr, (rng.choice((rng.randrange(0x20, 0xD7FF), rng.randrange(0xE000, 0x20000))) for _ in range(size)))
        ),
    )
    low, high = rng.choice(SCRIPTS + MORE_SCRIPTS)
    yield "random script", "".join(rng.choice((chr(rng.randint(low, high)),) * 5 + (" ",)) for _ in range(size))
    yield "random words", " ".join(rng.choices(words, k=size // 6))
    yield "mixture", rng.choice(("", " ", "\n")).join(_slice(rng, rng.choice(prose)) for _ in range(rng.randint(3, 8)))


BLOCKS = (
    *((0x20, 0x7E), (0x21, 0x2F), (0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A), (0x00, 0x1F), (0x7F, 0xBF), (0xC0, 0xFF)),
    *((0x100, 0x24F), (0x250, 0x2FF), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x531, 0x587), (0x591, 0x5F4)),
    *((0x600, 0x6FF), (0x700, 0x7FF), *((first, first + 0x7F) for first in range(0x900, 0x1100, 0x80))),
    *((0x1100, 0x11FF), (0x1200, 0x137C), (0x13A0, 0x13F4), (0x1400, 0x16F0), (0x1780, 0x18AA), (0x1E00, 0x1FFF)),
    *((0x2000, 0x206F), (0x2070, 0x218F), (0x2190, 0x23FF), (0x2460, 0x27BF), (0x2800, 0x28FF), (0x2C80, 0x2CFF)),
    *((0x3000, 0x303F), (0x3041, 0x30FF), (0x3105, 0x318E), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA000, 0xA48C)),
    *((0xAC00, 0xD7A3), (0xE000, 0xF8FF), (0xF900, 0xFAD9), (0xFB50, 0xFEFC), (0xFF01, 0xFFEE), (0x10000, 0x1034A)),
    *((0x13000, 0x1342E), (0x1D100, 0x1D7FF), (0x1F000, 0x1F1FF), (0x1F300, 0x1F64F), (0x1F680, 0x1FAFF)),
    *((0x20000, 0x2A6DF), (0xE0000, 0xE007F), (0xF0000, 0x10FFFF)),
)
"""Scripts, signs, what is not assigned, what is for private use."""
BETWEEN = ("", " ", "  ", "\n", ", ", "\t", "-", "_", ".", '","', "\n\n", "/", "'", " the ")


def deceive(rng: random.Random, prose: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Texts that a sum of typical costs falls for, with the name of their kind, without `DECEPTIVE`."""
    size, between, first, second = rng.choice((8, 20, 60, 200, 600)), rng.choice(BETWEEN), *rng.sample(BLOCKS, 2)
    words = [_signs(rng, first, rng.randint(1, 6)) for _ in range(rng.randint(2, 6))]
    syllables = [_syllable(rng) for _ in range(rng.randint(2, 6))]
    yield "one sign", _signs(rng, first, 1) * size
    yield "few signs", "".join(rng.choices(_signs(rng, first, rng.randint(2, 4)), k=size))
    yield "cycle of signs", _cycle(_signs(rng, first, rng.randint(2, 6)), size)
    yield "cycle of two scripts", _cycle(_signs(rng, first, 1) + _signs(rng, second, rng.randint(1, 2)), size)
    yield "cycle with ASCII", _cycle(words[0][:2] + rng.choice(string.printable), size)
    yield "one word", _cycle(words[0] + between, size)
    yield "few words", between.join(rng.choices(words, k=size // 4))
    yield "random words", between.join(_signs(rng, first, rng.randint(1, 7)) for _ in range(size // 4))
    yield "two scripts", "".join(_signs(rng, rng.choice((first, second)), 1) for _ in range(size))
    yield "one syllable", _cycle(rng.choice((str.lower, str.upper, str.title))(syllables[0]) + between, size)
    yield "few syllables", between.join(rng.choices(syllables, k=size // 3))
    yield "random syllables", between.join(_syllable(rng) for _ in range(size // 3))
    yield "syllables as JSON", json.dumps([{rng.choice(syllables): rng.choice(syllables)} for _ in range(size // 8)])
    yield "cycle of ASCII", _cycle("".join(rng.choices(string.printable, k=rng.randint(1, 6))), size)
    yield "cycle of punctuation", _cycle("".join(rng.choices(string.punctuation, k=rng.randint(1, 5))) + between, size)
    yield "cycle of digits", _cycle("".join(rng.choices(string.digits, k=rng.randint(1, 7))) + between, size)
    yield "white space", _cycle(rng.choice(string.printable) + "".join(rng.choices(" \n\t\r", k=5)), size)
    yield "joined emoji", _cycle("\u200d".join(_signs(rng, (0x1F466, 0x1F9FF), 3)) + rng.choice(("", "\ufe0f")), size)
    yield "piled accents", _cycle(rng.choice(string.ascii_letters) + _signs(rng, (0x300, 0x36F), 3), size)
    yield "after prose", rng.choice(prose)[:300] + _cycle(syllables[0] + between, size)


def _signs(rng: random.Random, block: tuple[int, int], number: int) -> str:
    return "".join(chr(rng.randint(*block)) for _ in range(number))


def _syllable(rng: random.Random) -> str:
    shape = rng.choice(("cv", "vc", "cvc", "c" * rng.randint(1, 4)))
    return "".join(rng.choice("aeiou" if kind == "v" else string.ascii_lowercase) for kind in shape)


def _cycle(unit: str, size: int) -> str:
    return (unit * size)[:size]


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128)))


def _slice(rng: random.Random, text: str) -> str:
    begin = rng.randrange(len(text))
    return text[begin : begin + rng.randint(1, 50)]


def _cell(rng: random.Random, words: Sequence[str]) -> str:
    return rng.choice((rng.choice(words), str(rng.randrange(100_000)), f"{rng.uniform(0, 999):.2f}"))


def _url(rng: random.Random, words: Sequence[str]) -> str:
    word, other, key = rng.sample(words, 3)
    code = "".join(rng.choices(string.ascii_letters + string.digits, k=11))
    return f"https://{word}.example.com/{other}/{code}?{key}={rng.randrange(9999)}"


def _log_line(rng: random.Random, words: Sequence[str]) -> str:
    stamp = f"2026-03-{rng.randint(1, 28):02} {rng.randrange(24):02}:{rng.randrange(60):02}:{rng.uniform(0, 59):06.3f}"
    level, who = rng.choice(("INFO", "DEBUG", "WARNING")), rng.choice(words)
    said = " ".join(rng.choices(words, k=5))
    return f"{stamp} {level} [{who}] {said} id={rng.randbytes(6).hex()} {rng.randrange(999)}ms"


def _value(rng: random.Random, words: Sequence[str], depth: int) -> object:
    if depth < 2 and rng.random() < 0.4:
        inner = [_value(rng, words, depth + 1) for _ in range(rng.randint(1, 4))]
        return inner if rng.random() < 0.3 else {f"{rng.choice(words)}_{rng.choice(words)}": each for each in inner}
    return rng.choice(
        (
            rng.randrange(10**6),
            round(rng.random() * 99, 3),
            True,
            None,
            " ".join(rng.choices(words, k=4)),
            _uuid(rng),
            f"2026-03-{rng.randint(1, 28):02}T12:00:00Z",
        )
    )


def _tool(rng: random.Random, words: Sequence[str]) -> dict[str, Any]:
    names = rng.sample(words, 4)
    properties: dict[str, dict[str, object]] = {
        name: {"type": rng.choice(("string", "integer", "number")), "description": " ".join(rng.choices(words, k=7))}
        for name in names
    }
    properties[names[0]] |= {"type": "string", "enum": rng.sample(words, 3)}
    schema = {"type": "object", "properties": properties, "required": names[:2], "additionalProperties": False}
    return {
        "type": "function",
        "function": {
            "name": "_".join(rng.sample(words, 2)),
            "description": " ".join(rng.choices(words, k=12)),
            "parameters": schema,
        },
    }


def draw_chat(rng: random.Random, words: Sequence[str], prose: Sequence[str]) -> dict[str, Any]:
    """A prompt of an agent: instructions, a question, a few calls of tools with their results, and the tools."""
    tools = [_tool(rng, words) for _ in range(rng.randint(1, 6))]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": rng.choice(prose)},
        {"role": "user", "content": rng.choice(prose)},
    ]
    for _ in range(rng.randint(0, 4)):
        call = f"call_{''.join(rng.choices(string.ascii_letters + string.digits, k=24))}"
        arguments = json.dumps({name: rng.choice(words) for name in rng.sample(words, 2)})
        name = rng.choice(tools)["function"]["name"]
        messages.append(
            {"role": "assistant", "content": "", "tool_calls": [{"id": call, "name": name, "arguments": arguments}]}
        )
        result = json.dumps({name: _value(rng, words, 1) for name in rng.sample(words, 5)})
        messages.append({"role": "tool", "tool_call_id": call, "content": result})
    return {"messages": messages, "tools": tools}


# --- measuring --------------------------------------------------------------------------------------------------------


def load_fixture() -> dict[str, Any]:
    """The stored texts by kind, each with its counts, and the stored prompts."""
    loaded: dict[str, Any] = json.loads(FIXTURE.read_text(encoding="utf-8"))
    return loaded


def write_fixture(fixture: dict[str, Any], count: Count, rng: random.Random) -> None:
    """Count the written texts again and draw the random ones again."""
    words, prose = vocabulary(fixture)
    drawn: dict[str, list[str]] = {}
    for _ in range(3):
        for kind, text in draw(rng, words, prose):
            drawn.setdefault(kind, []).append(text[:700])
    for _ in range(12):
        for kind, text in deceive(rng, prose):
            drawn.setdefault(DECEPTIVE + kind, []).append(text[:150])
    written = {kind: [row[0] for row in rows] for kind, rows in fixture["texts"].items() if kind not in drawn}
    chats = [draw_chat(rng, words, prose) for _ in range(15)]
    counted = {
        "texts": {kind: [[text, *count(text)] for text in texts] for kind, texts in (written | drawn).items()},
        "chats": [[chat, *count_chat(chat, count)] for chat in chats],
    }
    FIXTURE.write_text(json.dumps(counted, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def vocabulary(fixture: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """English words, and every text that somebody wrote, save the shortest."""
    english = " ".join(row[0] for row in fixture["texts"]["english"])
    words = sorted({word.strip(".,:;?").lower() for word in english.split() if word.strip(".,:;?").isalpha()})
    return words, [
        row[0]
        for kind, rows in fixture["texts"].items()
        if not kind.startswith(("random", DECEPTIVE))
        for row in rows
        if len(row[0]) >= SHORT
    ]


def count_chat(chat: Mapping[str, Any], count: Count) -> tuple[int, int]:
    """A prompt under both encodings."""
    return documented_count(chat, lambda text: count(text)[0]), documented_count(chat, lambda text: count(text)[1])


def stored_rows(fixture: Mapping[str, Any]) -> dict[str, list[Row]]:
    """The fixture's texts and prompts, with what is estimated for them now."""
    rows = {
        kind: [(tokens.estimate_text(text), o, c) for text, o, c in texts] for kind, texts in fixture["texts"].items()
    }
    rows[CHATS] = [(estimate_chat(chat), o, c) for chat, o, c in fixture["chats"]]
    return rows


def drawn_rows(fixture: Mapping[str, Any], count: Count, rng: random.Random, times: int) -> dict[str, list[Row]]:
    """Texts nobody stored: windows of what is stored, whatever can be drawn, and prompts."""
    words, prose = vocabulary(fixture)
    rows: dict[str, list[Row]] = {}
    for _ in range(times):
        texts = list(draw(rng, words, prose))
        for kind, stored in fixture["texts"].items():
            if kind.startswith(DECEPTIVE):
                continue
            begin = rng.randrange(max(1, len(text := rng.choice(stored)[0]) - SHORT))
            texts.append((kind, text[begin : begin + rng.choice((200, 400))]))
        for kind, text in texts:
            if len(text) >= SHORT:
                rows.setdefault(kind, []).append((tokens.estimate_text(text), *count(text)))
        for kind, text in (each for _ in range(5) for each in deceive(rng, prose)):
            if text:
                rows.setdefault(DECEPTIVE + kind, []).append((tokens.estimate_text(text), *count(text)))
        chat = draw_chat(rng, words, prose)
        rows.setdefault(CHATS, []).append((estimate_chat(chat), *count_chat(chat, count)))
    return rows


def report(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """Print the table; what is wrong with it."""
    wrong: list[str] = []
    print(f"{'estimate / count':32}{'texts':>6}{'under':>6}{'median':>8}{'min':>6}{'max':>6}{'o200k':>7}{'cl100k':>7}")
    for kind, counted in sorted(rows.items()):
        larger = [estimate / max(o, c) for estimate, o, c in counted]
        median = statistics.median(larger)
        others = [statistics.median(row[0] / row[i] for row in counted) for i in (1, 2)]
        under = sum(ratio < 1 for ratio in larger)
        print(
            f"{kind:32}{len(counted):6}{under:6}{median:8.2f}{min(larger):6.2f}{max(larger):6.2f}"
            f"{others[0]:7.2f}{others[1]:7.2f}"
        )
        wrong += [f"{kind}: {under} estimates below the count, one only {min(larger):.3f} of it"] if under else []
        wrong += (
            [f"{kind}: the median is {median:.2f}, above {ALLOWED_MEDIAN}"]
            if median > ALLOWED_MEDIAN and kind not in UNJUDGED and not kind.startswith(DECEPTIVE)
            else []
        )
    return wrong


def speed(fixture: Mapping[str, Any]) -> None:
    """Microseconds for a thousand characters."""
    for kind in ("english", "python", "json, minified", "russian", "chinese"):
        text = " ".join(row[0] for row in fixture["texts"][kind])
        taken: list[float] = []
        for _ in range(50):
            begin = time.perf_counter()
            tokens.estimate_text(text)
            taken.append(time.perf_counter() - begin)
        print(f"{kind}: {min(taken) * 1e9 / len(text):.0f} µs for 1000 characters")  # the best: least disturbed


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="draw fewer random texts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="count the fixture anew")
    arguments = parser.parse_args()
    count, rng = exact_counter(), random.Random(arguments.seed)  # noqa: S311 - texts, not secrets
    if arguments.write and count is None:
        parser.error("--write needs tiktoken with its vocabularies, or litellm, which has them")
    if arguments.write and count is not None:
        write_fixture(load_fixture(), count, rng)
    fixture = load_fixture()
    print(f"counts: {'the fixture alone' if count is None else 'the fixture, and texts drawn now'}")
    rows = stored_rows(fixture)
    if count is not None:
        stale = [text for texts in fixture["texts"].values() for text, *known in texts if known != list(count(text))]
        assert not stale, f"the fixture's counts are not those of the vocabularies: {stale[0]!r}"
        for kind, drawn in drawn_rows(fixture, count, rng, 60 if arguments.quick else 300).items():
            rows.setdefault(kind, []).extend(drawn)
    wrong = report(rows)
    speed(fixture)
    print("\n".join(wrong) or "no estimate below a count, no median above the limit")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
