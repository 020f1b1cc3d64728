"""Every Python block of the README runs: those under one heading one after the other, as in a notebook."""

import ast
import asyncio
import inspect
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

README = Path(__file__).parents[1] / "README.md"
LINE = re.compile(r"^(?:(?P<heading>#+ .+)|(?P<fence>```+)(?P<language>\w*).*)$")


class Section(NamedTuple):
    heading: str
    blocks: list[str]
    """Each starts with as many empty lines as stand above it: a traceback names the line of the README."""


def sections(text: str) -> list[Section]:
    """The headings that have Python blocks under them, with the blocks."""
    found: list[Section] = []
    heading, lines = "", enumerate(text.splitlines())
    for number, line in lines:
        match = LINE.match(line)
        if match and match["heading"]:
            heading = match["heading"].strip("# ")
        elif match:
            inside = itertools.takewhile(lambda below, fence=match["fence"]: below[1] != fence, lines)
            code = "\n" * (number + 1) + "\n".join(line for _, line in inside)
            if match["language"] == "python":
                if not found or found[-1].heading != heading:
                    found.append(Section(heading, []))
                found[-1].blocks.append(code)
    return found


def run(section: Section) -> None:
    """Run the blocks in one namespace and one event loop; `await` works at the top, as in a notebook."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    with asyncio.Runner() as runner:
        for block in section.blocks:
            code = compile(block, README.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, namespace)  # noqa: S307 - the README is ours
            if inspect.iscoroutine(result):
                runner.run(_finish(result))


async def _finish(block) -> None:
    await block


FOUND = sections(README.read_text(encoding="utf-8")) if README.exists() else []


@pytest.fixture
def provider(tmp_path) -> Iterator[dict[str, str]]:
    """The environment in which an OpenAI client talks to a scripted server on this machine."""
    from shearpin.testing import ScriptedServer

    # Frameworks that would write home, or tell somebody of their runs.
    quiet = {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false", "CREWAI_TESTING": "true"}
    quiet |= {"HOME": str(tmp_path), "CREWAI_STORAGE_DIR": str(tmp_path), "OPENAI_AGENTS_DISABLE_TRACING": "1"}
    with ScriptedServer(answer) as server:
        yield quiet | {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "scripted"}


def answer(request):
    """A model that calls the first tool it is offered for as long as it is asked, with the same arguments."""
    from shearpin.testing import reply, tool_call

    if not request.tools:
        return reply("A shear pin is the part made to break first.", usage=(1_000, 500))
    function = request.tools[0]["function"]
    properties = function.get("parameters", {}).get("properties", {})
    arguments = {name: _example(schema) for name, schema in properties.items()}
    return tool_call(function["name"], arguments, usage=(1_000, 500))


def _example(schema):
    values = {"integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}
    return values.get(schema.get("type"), "shear pin")


@pytest.mark.skipif(not README.exists(), reason="there is no README yet")
def test_the_readme_has_python_in_it():
    assert FOUND


@pytest.mark.slow
@pytest.mark.parametrize("section", FOUND, ids=[section.heading for section in FOUND])
def test_the_readme_runs(section, provider, tmp_path):
    ran = subprocess.run(
        [sys.executable, __file__, str(FOUND.index(section))],
        cwd=tmp_path, env=os.environ | provider, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_blocks_keep_their_line_numbers_and_their_order():
    a = "# A\n```python\nx = 1\n```\n```console\n# no heading\n```\n```python\ny = x\n```\n"
    b = "## B\n```python\nz = 1\n```\n"

    found = sections(a + b)

    assert [section.heading for section in found] == ["A", "B"]
    assert found[0].blocks == ["\n\nx = 1", "\n" * 8 + "y = x"]


def test_a_block_may_await():
    run(Section("A", ["import asyncio\nx = await asyncio.sleep(0, 1)", "assert x == 1\nawait asyncio.sleep(0)"]))


if __name__ == "__main__":  # one section in a process of its own: what it installs or imports meets no other
    run(FOUND[int(sys.argv[1])])
