"""OpenAI Agents SDK: hooks for a run, or every run of a block.

await Runner.run(agent, question, hooks=ShearpinRunHooks(pin))

Importing this package puts a runner around the SDK's default one, which does nothing for runs without a guard.
Realtime sessions call no hooks, and voice pipelines pass none on: these are not covered.
"""

from shearpin.adapter import register_pass_through
from shearpin.adapter import require as _require

_require("openai-agents", "0.20")

from agents import AgentsException  # noqa: E402

from shearpin_integrations.openai_agents.hooks import ShearpinRunHooks  # noqa: E402
from shearpin_integrations.openai_agents.runner import installed  # noqa: E402

__all__ = ["ShearpinRunHooks", "installed"]

register_pass_through(AgentsException)
