"""What a guard is attached to and cannot do, and bugs of ours kept from the agent."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator

from shearpin import EnforcementGapWarning
from shearpin.adapter import Run, raise_if_meant

UNSEEN = (
    "{}: models answered but none of their calls reached Shearpin, so nothing was enforced; the runner that was set "
    "with set_default_agent_runner does not pass on the hooks it is given"
)
BYPASSED = (
    "another default runner has taken the place of Shearpin's: a run that fails is closed late, and agents used as "
    "tools are not seen; import shearpin_integrations.openai_agents after set_default_agent_runner, or call the "
    "runner inside `with installed(pin):`"
)
_KEPT_AS = "_openai_agents_warned"


def tell(run: Run, gap: str) -> None:
    """Note a gap on the run, and warn once a guard; Python's own memory of that is cleared by any `catch_warnings`."""
    run.gap(gap)
    said: set[str] = vars(run.guard).setdefault(_KEPT_AS, set())
    if gap not in said:
        said.add(gap)
        warnings.warn(gap, EnforcementGapWarning, stacklevel=3)


@contextlib.contextmanager
def harmless(where: str) -> Generator[None]:
    """Around code of ours that admits nothing: a bug in it costs a record, never the agent."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - sorted out by the next line
        raise_if_meant(error, where)
