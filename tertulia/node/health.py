"""Is this node well: reasons why it is not ready, from its parts, and how late its event loop runs.

Each part registers a check that answers None or a short sentence; `/readyz` shows the sentences. Liveness (`/healthz`)
is the event loop answering at all.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

Check = Callable[[], str | None]

PROBE_S = 0.25
LATE_NS = 1_000_000_000
"""A loop this late is overloaded: new people should go elsewhere."""
FORGET = 0.9
"""Share of the worst delay kept from one probe to the next: a stall shows for about ten probes."""


class Health:
    """Collects checks; `reasons()` is what the front door's readiness asks."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}
        self.loop_delay_ns = 0
        """Worst recent delay of the event loop."""

    def watch(self, name: str, check: Check) -> None:
        """Add or replace a check; its answer is shown as `name: answer`."""
        self._checks[name] = check

    def forget(self, name: str) -> None:
        self._checks.pop(name, None)

    def reasons(self) -> tuple[str, ...]:
        """Why this node should get no newcomers; empty when it is well. A check that breaks is a reason."""
        found = []
        for name, check in self._checks.items():
            try:
                answer = check()
            except Exception as error:
                answer = f"the check failed ({type(error).__name__})"
            if answer:
                found.append(f"{name}: {answer}")
        if self.loop_delay_ns >= LATE_NS:
            found.append(f"overload: the event loop runs {self.loop_delay_ns // 1_000_000} ms late")
        return tuple(found)

    def noticed(self, delay_ns: int) -> None:
        """One probe came this late."""
        self.loop_delay_ns = max(delay_ns, int(self.loop_delay_ns * FORGET))

    async def probe(self) -> None:
        """Measures the loop until cancelled; run it as a task."""
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                due = time.monotonic_ns() + int(PROBE_S * 1e9)
                await asyncio.sleep(PROBE_S)
                self.noticed(max(0, time.monotonic_ns() - due))
