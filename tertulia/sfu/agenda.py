"""Things a machine means to do later: due times with a callable each, in order; no clock of its own."""

import heapq
from collections.abc import Callable

from tertulia.protocol.machine import Nanos


class Appointment:
    """One thing to do; `cancel` it when it became pointless."""

    __slots__ = ("cancelled", "due", "what")

    def __init__(self, due: Nanos, what: Callable[[], None]) -> None:
        self.due = due
        self.what = what
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self.what = _nothing  # lets go of what the callable held; the heap drops the appointment when it is due


def _nothing() -> None:
    return


class Agenda:
    """A heap of appointments."""

    def __init__(self) -> None:
        self._heap: list[tuple[Nanos, int, Appointment]] = []
        self._count = 0

    def at(self, due: Nanos, what: Callable[[], None]) -> Appointment:
        appointment = Appointment(due, what)
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, appointment))
        return appointment

    def next_due(self) -> Nanos | None:
        while self._heap and self._heap[0][2].cancelled:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def run(self, now: Nanos) -> None:
        """Do everything that is due; what it makes due at once waits for the next turn."""
        due: list[Appointment] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        for appointment in due:
            if not appointment.cancelled:
                appointment.what()

    def clear(self) -> None:
        self._heap.clear()
