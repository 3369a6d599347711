"""`sightlogd purge`: what it removes, and what it says; in the running daemon, or in the command when there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from sightlogd.errors import EXIT_IO_ERROR, EXIT_STORAGE_FULL, WriteRefused
from sightlogd.retention.budget import Budget
from sightlogd.retention.policy import Day, Level, level_of
from sightlogd.units import gigabytes

from .control import PurgeRequest

REFUSED = 1
"""Exit code: something should go, and may not."""


class Asker(Protocol):
    def tell(self, text: str) -> None: ...

    def end(self, exit_code: int) -> None: ...


def purge(request: PurgeRequest, budget: Budget, asker: Asker) -> Iterator[None]:
    """In slices. Raises what `Budget.purge` does; the asker knows by then."""
    days: tuple[Day, ...] = ()
    refusal = None
    if request.before is not None or request.day is not None:
        for day in budget.old_days(_wanted(request), force=request.force):
            days += (day,)
            yield  # it has counted all that day's rows
    else:
        plan = budget.plan(force=request.force)
        days, refusal = plan.days, plan.refusal
    if not days:
        stats = budget.measure()
        if request.day is not None:
            refusal = _kept(request.day, budget)
        elif refusal is None and request.before is None and level_of(stats) is not Level.FINE:
            refusal = budget.nothing_may_go()
        asker.tell(f"Storage: {stats}. {refusal or _nothing(request)}")
        asker.end(REFUSED if refusal else 0)
        return
    if request.dry_run:
        total = gigabytes(sum(day.bytes for day in days))
        summary = f"{len(days)} days with about {total} would be removed. Storage: {budget.measure()}"
        # In one piece: a client that is slow to read is not waited for.
        asker.tell("\n".join([*map(_described, days), summary]))
        asker.end(0)
        return
    try:
        yield from budget.purge(days, asker.tell)
    except (OSError, WriteRefused) as error:
        asker.tell(f"stopped: {error}. The daemon finishes the day it began when it can")
        asker.end(EXIT_STORAGE_FULL if isinstance(error, WriteRefused) else EXIT_IO_ERROR)
        raise
    asker.tell(f"Storage: {budget.measure()}")
    asker.end(0)


def _wanted(request: PurgeRequest) -> Callable[[str], bool]:
    return lambda name: name == request.day if request.day is not None else name < (request.before or "")


def _kept(day: str, budget: Budget) -> str | None:
    """Why that day stays; None: there is nothing of it."""
    if day == budget.today:
        return f"{day} is today, which is never removed."
    if not budget.has(day):
        return None
    return (
        f"{day} may not go: it is younger than min_retention_days, or was written to that recently. --force removes it "
        "all the same."
    )


def _nothing(request: PurgeRequest) -> str:
    if request.day is not None:
        return f"There is nothing of {request.day}."
    if request.before is not None:
        if request.force:
            return f"There is no day before {request.before} but today."
        return (
            f"No day before {request.before} may go: there is none, or each is younger than min_retention_days or was "
            "written to that recently. --force removes them all the same."
        )
    return "Nothing has to go: below 80 %." + (
        "" if request.force else " --before DAY removes older days all the same."
    )


def _described(day: Day) -> str:
    return f"{day.name}  {gigabytes(day.bytes):>8}    {day.contents}"
