"""What a user configures: a `Guard` with its rules, and the decorators that put plain functions under it."""

from __future__ import annotations

import atexit
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, Self, TypeVar, overload

from shearpin.errors import EnforcementGapWarning, RunStoppedError
from shearpin.rules.budget import Budget
from shearpin.rules.prices import PriceBook
from shearpin.rules.protocol import Rule
from shearpin.runs import given
from shearpin.runs.calls import LLMCall
from shearpin.runs.clients import Client, wrap_client
from shearpin.runs.prompts import asked
from shearpin.runs.run import Run
from shearpin.runs.settings import Settings
from shearpin.runs.tree import Tree
from shearpin.runs.wrapping import name_of, wrap
from shearpin.trace import Identity, Trace
from shearpin.trace.ambient import place_of
from shearpin.trace.exporting import Exporter

Function = TypeVar("Function", bound=Callable[..., Any])

_EXPORTER = ("span_started", "span_ended", "run_ended")
KEPT_TRACES = 100
"""How many finished runs a guard remembers; older ones live on where the exporters put them."""


class Guard:
    """Rules, and the record of the runs they watched. Thread-safe; one guard serves any number of runs at once.

    Args:
        *rules: what may stop a run, e.g. ``Budget(usd=0.50)``. Each counts every run from zero.
        exporters: where spans and finished runs go.
        prices: USD per million tokens by model, over the bundled table, e.g.
            ``{"my-model": {"input": 2.5, "output": 10.0, "cached_input": 1.25, "cache_write": 3.1}}``.
        mode: ``"enforce"``, or ``"observe"`` to record what would have been stopped and stop nothing.

    Raises:
        TypeError: a rule or an exporter is not one.
        ValueError: a price or the mode is not one.
    """

    def __init__(
        self,
        *rules: Rule,
        exporters: Sequence[Exporter] = (),
        prices: Mapping[str, Mapping[str, float]] | None = None,
        mode: Literal["enforce", "observe"] = "enforce",
    ) -> None:
        for rule in rules:
            if isinstance(rule, type) or not hasattr(rule, "watch"):
                raise TypeError(f"Guard takes rules such as Budget(usd=0.50), not {rule!r}")
        if mode not in ("enforce", "observe"):
            raise ValueError(f"Guard(mode={mode!r}): must be 'enforce' or 'observe'")
        self.rules = rules
        self.prices = PriceBook(prices)
        if any(isinstance(rule, Budget) and rule.usd is not None for rule in rules):
            self.prices.load()
        self._lock = threading.RLock()
        self._live: dict[str, Run] = {}
        self._finished: deque[Trace] = deque(maxlen=KEPT_TRACES)
        self._ambient: Run | None = None
        self._last_stop: RunStoppedError | None = None
        self._closes_at_exit = False
        self._settings = Settings(
            rules, _checked(exporters), self.prices, mode == "enforce", self._started, self._ended
        )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        """Frameworks copy configs and models with all that they hold; their runs count all the same."""
        return self

    # --- runs -----------------------------------------------------------------------------------------------------

    def run(
        self,
        name: str = "run",
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        tenant: str | None = None,
        team: str | None = None,
        organization: str | None = None,
        task_type: str | None = None,
        version: str | None = None,
        env: str | None = None,
        tags: Sequence[str] | str = (),
        metadata: Mapping[str, Any] | None = None,
        input: object = None,  # noqa: A002 - the trace's own word
    ) -> Run:
        """A run, to be opened once with ``with`` or ``async with``. Inside another run of this guard it is its child.

        Names and labels that are no strings are made some; a single tag may come without a list around it.
        """
        facts = given.facts(metadata)
        identity = Identity(
            given.label(session_id),
            given.label(user_id),
            given.label(tenant),
            given.label(team),
            given.label(organization),
            given.label(task_type),
            given.label(version),
            given.label(env),
            given.labels(tags),
            facts,
        )
        return Run(self, self._settings, given.label(name) or "run", identity, input)

    def tool(self, function: Function) -> Function:
        """Decorate a tool: each call is one span of the current run, refused before the body runs if a rule says so.

        Outside any run, the calls of all functions decorated by this guard accumulate in one ambient run.
        """
        name = name_of(function)
        return wrap(function, lambda arguments: self._here().tool(name, arguments), by=(self, "tool"))

    @overload
    def llm(self, function: Function) -> Function: ...
    @overload
    def llm(self, *, model: str | None = None, provider: str | None = None) -> Callable[[Function], Function]: ...
    def llm(self, function: Any = None, *, model: str | None = None, provider: str | None = None) -> Any:
        """Decorate a function that calls a model and returns the provider's answer, or the text.

        ``model``, ``tools`` and ``max_tokens`` (or ``max_completion_tokens``, ``max_output_tokens``) are read from
        arguments of these names, given or by default. Every other text or data it is called with counts as its prompt,
        whatever its name, save settings such as ``temperature`` and what is called a key, a token or a secret.
        """

        def decorate(decorated: Function) -> Function:
            name = model or name_of(decorated)

            def call(arguments: Mapping[str, Any]) -> LLMCall:
                return self._here().llm(provider=provider, **asked(arguments, name))

            return wrap(decorated, call, by=(self, "llm"))

        return decorate if function is None else decorate(function)

    def wrap(self, client: Client) -> Client:
        """A copy of an OpenAI client, sync or async, whose model calls are gated and recorded; the original is not.

        They belong to the run around them, or to the ambient one. Raises TypeError for anything but such a client.
        """
        return wrap_client(client, self, self._here)

    def close(self) -> None:
        """End the ambient run. Raises its stop if it was stopped and nobody saw it."""
        with self._lock:
            ambient, self._ambient = self._ambient, None
        if ambient is not None:
            ambient.close()

    # --- what users ask -------------------------------------------------------------------------------------------

    @property
    def traces(self) -> list[Trace]:
        """The finished runs, newest last; the last hundred are kept."""
        with self._lock:
            return list(self._finished)

    @property
    def active(self) -> list[Run]:
        """The outermost runs that are live now, oldest first."""
        with self._lock:
            return list(self._live.values())

    def raise_if_stopped(self) -> None:
        """Raise the stop of the most recently ended run, delivered or not; nothing if that run was not stopped."""
        if self._last_stop is not None:
            raise self._last_stop.with_traceback(None)

    def remaining(self, scope: str = "run", key: str | None = None) -> Mapping[str, float]:
        """What is left of every budget, by unit: of the live run whose trace id is `key`, else of the current one.

        With no such run, what a new one would have. Raises ValueError for a scope that no budget here can have.
        """
        if scope != "run":
            raise ValueError(f"remaining(scope={scope!r}): budgets count per 'run'")
        run = self._live.get(key) if key is not None else self._current()
        if run is not None:
            return run.remaining
        budgets = [rule.limits for rule in self.rules if isinstance(rule, Budget)]
        return {unit: min(b[unit] for b in budgets if unit in b) for budget in budgets for unit in budget}

    # --- inside ---------------------------------------------------------------------------------------------------

    def _current(self) -> Run | None:
        place = place_of(self)
        return place.run if place is not None else self._ambient

    def _here(self) -> Run:
        """The run that a decorated function belongs to: the one around it, else the ambient one."""
        place = place_of(self)
        if place is not None:
            return place.run  # type: ignore[no-any-return]
        with self._lock:
            if self._ambient is None:
                self._warn_of_lost_context()
                ambient = self.run("ambient")
                ambient.open()
                self._ambient = ambient
                self._close_at_exit()
            return self._ambient

    def _close_at_exit(self) -> None:
        """Registered at the first ambient run: by then its exporters are, and what is registered last runs first."""
        if not self._closes_at_exit:
            self._closes_at_exit = True
            atexit.register(_close_quietly, weakref.ref(self))

    def _warn_of_lost_context(self) -> None:
        if self._live:
            warnings.warn(
                "a decorated function or a wrapped client was called outside of the guard's live runs and is counted "
                "in a run of its own; if it belongs to one, start its thread with contextvars.copy_context().run, or "
                "hand it the run",
                EnforcementGapWarning,
                stacklevel=6,
            )

    def _started(self, run: Run) -> None:
        with self._lock:
            self._live[run.trace.trace_id] = run

    def _ended(self, tree: Tree) -> None:
        with self._lock:
            self._live.pop(tree.trace.trace_id, None)
            if tree.trace in self._finished:  # it was paused, and went on
                self._finished.remove(tree.trace)
            self._finished.append(tree.trace)
            self._last_stop = tree.stop


def _checked(exporters: Sequence[Exporter]) -> tuple[Exporter, ...]:
    if not isinstance(exporters, Iterable) or isinstance(exporters, str):
        raise TypeError(
            f"Guard(exporters={exporters!r}): must be a list of exporters, such as [JSONLinesExporter(...)]"
        )
    found = tuple(exporters)
    for exporter in found:
        missing = [name for name in _EXPORTER if not callable(getattr(exporter, name, None))]
        if isinstance(exporter, type) or missing:
            lacks = f"it lacks {', '.join(missing)}" if missing else "it is a class, not an object"
            raise TypeError(f"Guard(exporters=[...]): {exporter!r} is no exporter, {lacks}")
    return found


def _close_quietly(reference: weakref.ref[Guard]) -> None:
    """An ambient run that nobody closed ends with the process, without a word: there is nobody to raise to."""
    alive = reference()
    if alive is not None:
        with suppress(RunStoppedError):
            alive.close()


def guard(*rules: Rule | Guard, **options: Any) -> Callable[[Function], Function]:
    """Decorate an entry point: each outermost call is one run under these rules, or under a guard you have.

    The guard is the function's ``pin`` attribute. Options are those of `Guard`.
    """
    if options or len(rules) > 1:
        mixed = [rule for rule in rules if isinstance(rule, Guard)]
        if mixed:
            raise TypeError("guard(pin) takes nothing beside the guard: give its rules and options to Guard(...)")
    pin = rules[0] if len(rules) == 1 and isinstance(rules[0], Guard) and not options else Guard(*rules, **options)  # type: ignore[arg-type]

    def decorate(function: Function) -> Function:
        if isinstance(function, type):  # it would be one no longer
            raise TypeError(f"guard decorates functions: {function.__name__} is a class, decorate its methods")
        name = name_of(function)
        wrapped: Any = wrap(function, lambda arguments: pin.run(name, input=arguments))
        getattr(wrapped, "__func__", wrapped).pin = pin  # of a static or class method: the function in it
        return wrapped  # type: ignore[no-any-return]

    return decorate


def current_run() -> Run | None:
    """The innermost run the running code is in, of whatever guard; None outside."""
    place = place_of(None)
    return place.run if place is not None else None
