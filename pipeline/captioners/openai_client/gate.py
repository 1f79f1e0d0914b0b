"""When the next request may go: a bound on requests in flight, a budget, a server's wish to be left alone, trouble.

All of it but `trouble` is for the event loop's thread only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from pipeline.captioners.openai_client.bill import Bill
from pipeline.errors import UserError


class BudgetSpentError(UserError):
    """The next try might exceed the budget."""


class Gate:
    """Lets requests through, in the order in which they came."""

    def __init__(self, bill: Bill, places: int) -> None:
        self.bill = bill
        self.places = places  # how many requests may be in flight; may grow in between
        self.trouble: UserError | None = None  # why nothing more is asked
        self._in_flight = 0
        self._changed = asyncio.Condition()
        self._stopped = asyncio.Event()
        self._quiet_until = 0.0  # of the loop's clock

    async def stop(self, error: UserError) -> None:
        """Nothing more is asked, because of `error` or what came before it."""
        async with self._changed:
            self.trouble = self.trouble or error
            self._stopped.set()
            self._changed.notify_all()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for one of the places, and holds it. Raises UserError if nothing more is asked."""
        async with self._changed:
            await self._changed.wait_for(self._nothing_to_wait_for)
            self._check(self._in_flight + 1)
            self._in_flight += 1
        try:
            yield
        finally:
            async with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    async def ready(self) -> None:
        """Waits before each try while the server wants to be left alone. Raises UserError if nothing more is asked."""
        now = asyncio.get_running_loop().time
        while (seconds := self._quiet_until - now()) > 0 and self.trouble is None:
            await self.pause(seconds)
        self._check(self._in_flight)

    def leave_alone(self, seconds: float) -> None:
        """No try starts in the next `seconds`."""
        self._quiet_until = max(self._quiet_until, asyncio.get_running_loop().time() + seconds)

    async def pause(self, seconds: float) -> None:
        """Sleeps, until there is trouble at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()

    def _nothing_to_wait_for(self) -> bool:
        if self._in_flight == 0 or self.trouble is not None:
            return True
        return self._in_flight < self.places and self.bill.affords(self._in_flight + 1)

    def _check(self, tries: int) -> None:
        if self.trouble is not None:
            raise self.trouble
        if not self.bill.affords(tries):
            budget = f"caption.openai.budget is {self.bill.options.budget:g}"
            raise BudgetSpentError(f"{budget}, which one more request might exceed: {self.bill.sentence()}")
