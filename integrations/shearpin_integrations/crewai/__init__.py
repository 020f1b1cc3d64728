"""CrewAI: crews, flows and agents under a guard.

attach(crew, pin, session_id="s1").kickoff()      # for the object's life
with attached(pin): crew.kickoff()                # until the block ends
"""

from shearpin.adapter import require as _require

# Before 1.15.20 a stop is retried like any error; CrewAI changes its hooks with the middle number.
_require("crewai", "1.15.20", below="1.16")

from shearpin_integrations.crewai.attaching import attach, attached  # noqa: E402

__all__ = ["attach", "attached"]
