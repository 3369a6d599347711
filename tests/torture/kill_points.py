"""Where the kill machine lets processes die: functions, and how many operations within them are worth a try."""

from __future__ import annotations

import random
from typing import Final

from fuses import AFTER, BEFORE, ENTERED, HALF, RETURNED, Fuse

START: Final = {
    "start": ("sightlogd.service.run:_open_store", 12),
    "new database": ("sightlogd.store.opening:create", 40),
    "WAL recovery": ("sightlogd.store.opening:_rewrite", 3),
    "opening": ("sightlogd.store.opening:_set_up", 6),
    "torn lines": ("sightlogd.daylogs.writer:DayLogs.repair", 2),
}
MIGRATION: Final = ("sightlogd.store.migrate:migrate", 150)
RUNNING: Final = {
    "commit": ("sightlogd.store.store:Store.write", 120),
    "checkpoint": ("sightlogd.store.store:Store._checkpoint", 60),
    "log append": ("sightlogd.daylogs.writer:DayLogs._write_lines", 30),
    "catch-up": ("sightlogd.service.background:Maintenance._catch_up", 12),
    "mark": ("sightlogd.daylogs.reconcile:mark", 12),
    "thumbnail": ("sightlogd.thumbnails.pipeline:Thumbnails.save", 40),
    "between batches": ("sightlogd.service.background:Maintenance.step", 40),
    "any operation": ("", 300),
}
ENCODING: Final = {
    "re-encoded": ("sightlogd.thumbnails.pipeline:Thumbnails._publish", 10),
    "incoming": ("sightlogd.thumbnails.queue:Incoming.put", 12),
    "collect": ("sightlogd.thumbnails.pipeline:Thumbnails.collect", 8),
}
PURGING: Final = {
    "purge begins": ("sightlogd.retention.purge:begin", 8),
    "purge": ("sightlogd.retention.budget:Budget.step", 80),
    "purged rows": ("sightlogd.store.store:Store.delete_of", 40),
    "purged pages": ("sightlogd.store.store:Store.give_back", 20),
    "purged texts": ("sightlogd.store.store:Store.merge_texts", 20),
}
CALLS: Final = {
    "ack": ("sightlogd.service.loop:Ingest._send", 60),
    "in the transaction": ("sightlogd.store.rows:Rows.write", 20),
    "after the commit": ("sightlogd.store.store:Store.write", 20),
    "before the logs": ("sightlogd.service.background:Maintenance.stored", 20),
    "schema checked": ("sightlogd.store.migrate:check_schema", 1),
}
PRODUCER: Final = {
    "producer's start": ("sightlog.spool.spool:Spool.__init__", 12),
    "append": ("sightlog.spool.spool:Spool.append", 120),
    "acked": ("sightlog.spool.spool:Spool.drop_through", 6),
    "its disk": ("", 150),
}
PRODUCER_CALLS: Final = {
    "sent": ("sightlog.publisher.connection:Connection.send", 30),
    "ack heard": ("sightlog.publisher.delivery:Delivery.receive", 20),
}
COPYING: Final = {
    "backup": ("", 120),
    "backup of a day": ("sightlogd.backups.copier:Copier.copy_day", 60),
    "backup done": ("sightlogd.backups.target:Target.commit", 12),
}


def draw(choose: random.Random, *tables: dict[str, tuple[str, int]]) -> tuple[str, Fuse]:
    """(name of the point, fuse)."""
    points = {name: point for table in tables for name, point in table.items()}
    name = choose.choice(list(points))
    function, most = points[name]
    # Half of them near the beginning: what comes late is not always reached.
    nth = choose.randint(1, most if choose.random() < 0.5 else min(most, 6))
    is_call = any(name in table for table in (CALLS, PRODUCER_CALLS))
    return name, Fuse(function, nth, choose.choice([ENTERED, RETURNED] if is_call else [BEFORE, HALF, AFTER]))
