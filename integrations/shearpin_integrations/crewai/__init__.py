"""CrewAI: crews, flows and agents under a guard.

attach(crew, pin, session_id="s1").kickoff()      # for the object's life
with attached(pin): crew.kickoff()                # until the block ends
"""

from shearpin_integrations.crewai.versions import check_version

check_version()

from shearpin_integrations.crewai.attaching import attach, attached  # noqa: E402 - else a stray ImportError tells less

__all__ = ["attach", "attached"]
