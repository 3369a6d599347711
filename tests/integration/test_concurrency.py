"""Three producers, readers all the while."""

from __future__ import annotations

import sqlite3
import threading

from ledger import acked, check, start_producer


def test_three_processes_of_100_events_give_300_rows_and_readers_never_see_half_an_event(daemon, tmp_path):
    stop = threading.Event()
    torn: list[object] = []
    seen: list[int] = []

    def read() -> None:
        try:
            connection = sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)
            while not stop.is_set():
                rows = connection.execute(
                    "SELECT e.event_id, count(d.event_id) FROM events e LEFT JOIN detections d ON d.event_id = e.id "
                    "GROUP BY e.id"
                ).fetchall()
                torn.extend(row for row in rows if row[1] < 3)
                seen.append(len(rows))
        except sqlite3.Error as error:
            torn.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    ledgers = {name: tmp_path / name for name in ("camera", "detector", "face")}
    producers = [
        start_producer(daemon.endpoint, tmp_path / "spool", name, ledger, 100) for name, ledger in ledgers.items()
    ]
    assert [producer.wait(60) for producer in producers] == [0, 0, 0]
    stop.set()
    for reader in readers:
        reader.join()
    assert torn == []
    assert seen
    assert daemon.reader().count_events() == 300
    assert all(len(acked(ledger)) == 100 for ledger in ledgers.values())
    check(daemon.database, ledgers, delivered=True)
    assert "locked" not in daemon.log.read_text()
