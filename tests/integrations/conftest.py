"""What holds for the tests of every framework."""

import pytest

EVERYDAY = ("invoke", "sync", "run", "kickoff")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test in every mode of calling is an everyday test in the first of them."""
    for item in items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if isinstance(mode := params.get("mode"), str) and mode not in EVERYDAY:
            item.add_marker(pytest.mark.slow)
