"""What holds for every test."""

import os

# Before anything of ours is imported: a bug inside Shearpin, which users find in their log, is raised here.
os.environ["SHEARPIN_STRICT"] = "1"

# Before a framework is imported, which some test may do: CrewAI would report its runs, and ask about that.
os.environ |= {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_TRACKING": "true",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_TESTING": "true",
    "CREWAI_TRACING_ENABLED": "false",
}
