# SPDX-License-Identifier: GPL-3.0-or-later
"""What measures which row of the table of targets, on the processor and on a card."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from tests.benchmarks import cards, ladder, live
from tests.benchmarks.served import Bare, Server, cancel, end_to_end, many
from tests.benchmarks.setup import Setup
from tests.benchmarks.table import Row

TABLE = tuple(str(row) for row in range(1, 13))
"""Every row that has a target."""

MEMORY = "memory"
"""The further table: the rungs of the memory ladder."""


@dataclass
class Bench:
    """What the rows of one model share; server and pipeline are started by the first that needs them."""

    setup: Setup
    rounds: int
    undo: AsyncExitStack
    stroke: float = live.SECONDS
    _server: Server | None = None
    _bare: Bare | None = None

    async def server(self) -> Server:
        if self._server is None:
            self._server = await self.undo.enter_async_context(Server(self.setup))
        return self._server

    def bare(self) -> Bare:
        self._bare = self._bare or Bare(self.setup)
        return self._bare

    def forget(self) -> None:
        """Let go of server and pipeline; the next row that needs them starts them again."""
        self._server = self._bare = None

    @property
    def few(self) -> int:
        """Rounds of what takes long."""
        return max(2, self.rounds // 2) if self.rounds > 1 else 1

    @property
    def many(self) -> int:
        """Rounds of what takes half a second and is judged by a hundredth of it."""
        return self.rounds if self.setup.card else 3 * self.rounds


Measure = Callable[[Bench], Awaitable[list[Row]]]
Measures = list[tuple[tuple[str, ...], Measure]]


@dataclass(frozen=True)
class Column:
    """title: where it is measured. measures: rows and what measures them, in the order in which they run.

    absent: why other rows have no measure here, one sentence each. only: rows of models that do not run all of them.
    """

    title: str
    measures: Measures
    absent: dict[str, str] = field(default_factory=dict)
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def rows(self) -> list[str]:
        return [row for covered, _ in self.measures for row in covered]

    def chosen(self, rows: str, title: str = "") -> Measures:
        """The measures of rows such as "2,7" that the model `title` has; all of them for "". Raises ValueError with a
        sentence for a row that no model has."""
        wanted = [row.strip() for row in rows.split(",") if row.strip()]
        for row in wanted:
            if row in self.absent:
                raise ValueError(f"Row {row} is not measured on {self.title}: {self.absent[row]}")
            if row not in self.rows:
                raise ValueError(f"There is no row {row} on {self.title}; there are {', '.join(self.rows)}.")
        has = self.only.get(title, tuple(self.rows))
        return [
            (covered, measure)
            for covered, measure in self.measures
            if set(covered) & set(has) and (not wanted or set(covered) & set(wanted) & set(has))
        ]


async def _end_to_end(bench: Bench) -> list[Row]:
    return await end_to_end(await bench.server(), bench.bare(), bench.many)


async def _cancel(bench: Bench) -> list[Row]:
    return await cancel(await bench.server(), bench.rounds)


async def _many(bench: Bench) -> list[Row]:
    return await many(await bench.server(), bench.bare(), max(2, bench.rounds // 3))


async def _replay(bench: Bench) -> list[Row]:
    return await live.replay(await bench.server(), bench.stroke)


async def _frames(bench: Bench) -> list[Row]:
    return [*await live.frames(bench.rounds), *await live.embedded_frames(bench.setup, bench.rounds)]


async def _frames_of_card(bench: Bench) -> list[Row]:
    return await live.frames_of(bench.setup, bench.setup.side, bench.rounds, (12.0, None))


async def _selection_of_card(bench: Bench) -> list[Row]:
    return await live.selection_of(bench.setup, bench.setup.side, bench.rounds)


async def _bytes(bench: Bench) -> list[Row]:
    return [live.bytes_of_a_stroke()]


async def _unet(bench: Bench) -> list[Row]:
    return cards.unet_rows(bench.setup, bench.rounds)


async def _memory(bench: Bench) -> list[Row]:
    return ladder.ladder(bench.setup)


PROCESSOR = Column(
    "the processor",
    [
        (("1", "4"), _end_to_end),
        (("5",), _cancel),
        (("12",), _many),
        (("3",), _replay),
        (("2", "8"), _frames),
        (("11",), lambda bench: live.selection(bench.rounds)),
        (("6",), _bytes),
        (("7",), lambda bench: live.first_image(bench.setup, bench.few)),
    ],
    {
        "9": "it compares captured graphs, which only a graphics card has, with calls without them.",
        "10": "its target is a share of what a graphics card can compute at most.",
    },
)

CARD = Column(
    "a graphics card",
    [
        (("1", "4"), _end_to_end),
        (("5",), _cancel),
        (("12",), _many),
        (("3",), _replay),
        (("2", "8"), _frames_of_card),
        (("11",), _selection_of_card),
        (("6",), _bytes),
        (("7",), lambda bench: live.first_image(bench.setup, bench.few)),
        (("9", "10"), _unet),
        ((MEMORY,), _memory),
    ],
    only={"SDXL": ("1", "4", "5", "7", "9", "10", "12", MEMORY), "Flux": (MEMORY,)},
)
"""Live's targets are for SD1.5. The memory table is the last of every model, and Flux has no other."""
