"""Packages that are absent, too old or too new."""

import importlib
from importlib.util import find_spec

import pytest

from shearpin import MissingIntegrationError
from shearpin.importing import require


@pytest.mark.parametrize(
    ("package", "oldest", "below", "says"),
    [
        ("no-such-package", "1.2", None, 'pip install "no-such-package>=1.2"'),
        ("pytest", "999", None, 'pip install "pytest>=999"  # pytest {} is installed'),
        ("pytest", "1", "2.5", 'pip install "pytest>=1,<2.5"  # pytest {} is installed'),
    ],
)
def test_what_is_absent_too_old_or_too_new_is_refused_with_the_line_that_installs_it(package, oldest, below, says):
    with pytest.raises(MissingIntegrationError) as missing:
        require(package, oldest, below)

    assert str(missing.value) == says.format(pytest.__version__)


def test_what_is_there_is_not():
    require("pytest", "1.0")
    require("pytest", pytest.__version__, "999.0rc1")


@pytest.mark.parametrize(
    ("name", "framework", "line"),
    [
        ("langchain", "langchain_core", 'pip install "langchain-core>='),
        ("langgraph", "langgraph", 'pip install "langgraph>='),
        ("crewai", "crewai", 'pip install "crewai>='),
        ("openai_agents", "agents", 'pip install "openai-agents>='),
    ],
)
def test_an_integration_without_its_framework_says_how_to_install_it(name, framework, line):
    if find_spec(framework) is not None:
        pytest.skip("it is there; the environment of the core alone has none")
    with pytest.raises(MissingIntegrationError) as missing:
        importlib.import_module(f"shearpin_integrations.{name}")

    assert str(missing.value).startswith(line)
