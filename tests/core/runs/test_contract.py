"""What every framework promises, for plain Python: a loop over a provider's HTTP interface, with blocks around it."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import httpx

from shearpin import ApprovalRejectedError, ToolDeniedError, current_run
from shearpin.testing import ScriptedServer
from tests.integrations.contract import Agent, Contract, Tool


class Loop:
    """An agent written by hand; without a guard it calls all the same."""

    def __init__(self, server: ScriptedServer, tools: Sequence[Tool], model: str) -> None:
        self.url, self.model = f"{server.base_url}/chat/completions", model
        self.tools = {tool.name: tool for tool in tools}
        self.offered = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in self.tools]

    def body(self, messages: list[Any]) -> dict[str, Any]:
        return {"model": self.model, "messages": messages} | ({"tools": self.offered} if self.offered else {})

    def model_block(self, messages: list[Any]) -> Any:
        run = current_run()
        return run.llm(model=self.model, messages=messages, tools=self.offered) if run else nullcontext(Blank())

    def tool_block(self, asked: Any) -> Any:
        run, arguments = current_run(), httpx.Response(200, text=asked["function"]["arguments"]).json()
        self.arguments = arguments
        return run.tool(asked["function"]["name"], arguments, call_id=asked["id"]) if run else nullcontext(Blank())

    def run(self, question: str) -> str:
        messages: list[Any] = [{"role": "user", "content": question}]
        while True:
            with self.model_block(messages) as call:
                answer = httpx.post(self.url, json=self.body(messages))
                call.response = answer.raise_for_status().json()
            messages.append(message := call.response["choices"][0]["message"])
            if not message.get("tool_calls"):
                return message["content"]
            messages += [self.answered(asked) for asked in message["tool_calls"]]

    async def arun(self, question: str) -> str:
        messages: list[Any] = [{"role": "user", "content": question}]
        async with httpx.AsyncClient() as client:
            while True:
                async with self.model_block(messages) as call:
                    answer = await client.post(self.url, json=self.body(messages))
                    call.response = answer.raise_for_status().json()
                messages.append(message := call.response["choices"][0]["message"])
                if not message.get("tool_calls"):
                    return message["content"]
                messages += [await self.aanswered(asked) for asked in message["tool_calls"]]

    def answered(self, asked: Any) -> dict[str, Any]:
        with told(asked) as reply, self.tool_block(asked) as call:
            call.result = reply["content"] = self.tools[asked["function"]["name"]](**self.arguments)
        return reply

    async def aanswered(self, asked: Any) -> dict[str, Any]:
        with told(asked) as reply:
            async with self.tool_block(asked) as call:
                call.result = reply["content"] = self.tools[asked["function"]["name"]](**self.arguments)
        return reply


class Blank:
    """What a block would be."""


class told:  # noqa: N801 - a context manager
    """The message for the model, be it of a denial."""

    def __init__(self, asked: Any) -> None:
        self.reply = {"role": "tool", "tool_call_id": asked["id"], "content": ""}

    def __enter__(self) -> dict[str, Any]:
        return self.reply

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> bool:
        denied = isinstance(error, ToolDeniedError | ApprovalRejectedError) and not current_run().stopped
        if denied:
            self.reply["content"] = f"The call of {error.tool} was denied and did not run"
        return denied


class TestPlainPython(Contract):
    modes: ClassVar[Sequence[str]] = ("sync", "async")

    def agent(self, server: ScriptedServer, tools: Sequence[Tool], *, model: str = "gpt-4o") -> Agent:
        def ask(mode, question, guard=None, times=1, **identity):
            loop = Loop(server, tools, model)
            block: Any = guard.run("agent", **identity, input=question) if guard else nullcontext()

            async def arun() -> str:
                async with block:
                    answer = await loop.arun(question)
                    if guard:
                        block.returned(answer)
                    return answer

            if mode == "async":
                return asyncio.run(arun())
            with block:
                answer = loop.run(question)
                if guard:
                    block.returned(answer)
                return answer

        return Agent(ask)
