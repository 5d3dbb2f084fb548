# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the time between pen and picture goes. Pure; all times are seconds of one monotonic clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

KEPT = 240
"""Frames that are remembered."""

PARTS = ("detect", "read", "send", "queue", "model", "return", "place")


@dataclass(frozen=True)
class Trip:
    """One generation. Times of 0.0 are not known (yet).

    event: the oldest pen event that no earlier frame answers. began, read: start and end of reading pixels. sent: given
    to the socket. arrived: complete in the link thread. shown: painted. queue, model: what the server says of itself.
    bytes: of the tiles that went up. down: of the frame.
    """

    generation: int
    event: float = 0.0
    began: float = 0.0
    read: float = 0.0
    sent: float = 0.0
    queue: float = 0.0
    model: float = 0.0
    arrived: float = 0.0
    shown: float = 0.0
    tiles: int = 0
    bytes: int = 0
    down: int = 0

    @property
    def latency(self) -> float:
        """Seconds from pen event to pixels on the screen; without a pen event, from the start of reading."""
        return self.shown - (self.event or self.began)

    def parts(self) -> dict[str, float]:
        """The latency cut into `PARTS`; "return" is what the other stations do not explain."""
        away = max(0.0, self.arrived - self.sent)
        times = (
            self.began - self.event if self.event else 0.0,
            self.read - self.began,
            self.sent - self.read,
            self.queue,
            self.model,
            away - self.queue - self.model,
            self.shown - self.arrived,
        )
        return {name: max(0.0, seconds) for name, seconds in zip(PARTS, times)}


class Timeline:
    """Trips that are under way, and those that ended on the screen."""

    def __init__(self) -> None:
        self._open: dict[int, Trip] = {}
        self.done: deque[Trip] = deque(maxlen=KEPT)
        self._answered = 0

    def begin(self, trip: Trip) -> None:
        """A request may leave under this number."""
        self._open[trip.generation] = trip
        for old in sorted(self._open)[:-KEPT]:
            del self._open[old]

    def forget(self, generation: int) -> Trip | None:
        """It did not leave: nothing had changed. What was known about it."""
        return self._open.pop(generation, None)

    def note(self, generation: int, **known: float) -> None:
        """Add times to a trip."""
        trip = self._open.get(generation)
        if trip is not None:
            self._open[generation] = replace(trip, **known)  # type: ignore[arg-type]

    def answered(self, generation: int) -> None:
        """A frame of that generation has come, shown or not: nothing older is waited for."""
        self._answered = max(self._answered, generation)

    def waiting(self, now: float) -> float:
        """Seconds since the oldest request left that no frame has answered; 0.0 when none is on its way."""
        left = [trip.sent for number, trip in self._open.items() if trip.sent and number > self._answered]
        return max(0.0, now - min(left)) if left else 0.0

    def end(self, generation: int, shown: float) -> None:
        """The frame of that generation is on the screen; older requests were superseded, their pen events answered."""
        trip = self._open.pop(generation, None)
        passed = [number for number in self._open if number < generation]
        events = [self._open.pop(number).event for number in passed]
        if trip is not None:
            oldest = min((event for event in (trip.event, *events) if event), default=0.0)
            self.done.append(replace(trip, shown=shown, event=oldest))

    def clear(self) -> None:
        """Another session: trips under way will not end. What was measured is kept."""
        self._open.clear()

    def summary(self) -> tuple[float, float]:
        """(median latency in seconds, frames per second) of the last few frames; zeros when there are too few."""
        last = list(self.done)[-12:]
        if not last:
            return 0.0, 0.0
        latency = sorted(trip.latency for trip in last)[len(last) // 2]
        span = last[-1].shown - last[0].shown
        return latency, (len(last) - 1) / span if len(last) > 2 and span > 0 else 0.0
