"""A run that goes on in a forked process too."""

import os
import subprocess
import sys

import pytest

CODE = """
import os
from shearpin import Guard

with Guard().run("parent") as run:
    with run.tool("before"):
        pass
    child = os.fork()
    with run.tool("after"):
        pass
    os.write(1, f"{[span.span_id for span in run.trace.spans]}\\n".encode())
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_parent_and_child_give_their_spans_ids_of_their_own():
    told = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True, timeout=60).stdout

    one, other = (line.strip("[]").split(", ") for line in told.splitlines())
    assert one[:2] == other[:2]
    assert one[2] != other[2]
