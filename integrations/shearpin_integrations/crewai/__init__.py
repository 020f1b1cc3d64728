"""CrewAI: crews, flows and agents under a guard.

attach(crew, pin, session_id="s1").kickoff()      # for the object's life
with attached(pin): crew.kickoff()                # until the block ends
"""

from shearpin_integrations.crewai.versions import check_version as _check_version

_check_version()

# Only now: of an older CrewAI, what is missing would be all that is said.
from shearpin_integrations.crewai.attaching import attach, attached  # noqa: E402

__all__ = ["attach", "attached"]
