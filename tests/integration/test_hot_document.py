"""64 writers of one document, over HTTP and NATS, whose connections are cut."""

from __future__ import annotations

from support.hot_document import increment_all
from support.system import System


async def test_every_acknowledged_increment_of_64_writers_is_counted_once(system: System) -> None:
    course = await increment_all(system, system.namespace(), writers=64, increments=8, faults=2)
    print(f"{course.events / course.seconds:,.0f} increments/s; {dict(course.statuses)}")
    assert course.final["by"] == course.sums
    assert course.final["count"] == course.sums.total()
    assert course.final_version == course.events + 1
    # Some were in the log already when they were sent again.
    assert course.statuses["duplicate"]
