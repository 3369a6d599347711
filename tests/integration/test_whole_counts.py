"""How many events and observations a site has is known without counting them all, and always right."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import apsw
import pytest
import stored
from conftest import wait_for
from test_verify import change, verify

from sightlog import Event, Observation, Reader
from sightlogd.retention.budget import COUNT_ROWS
from sightlogd.store import Store

SITES = ("home", "shed", "cabin")
KINDS = ("events", "observations")
DAY = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path):
    """Of some days and sites, with texts."""
    chance = random.Random(1)
    sites = chance.choices(SITES, (6, 3, 1), k=400)
    moments = [DAY + timedelta(days=chance.randrange(5)) for _ in sites]
    events = [Event("door", site=s, recorded_at=m) for s, m in zip(sites, moments, strict=True)]
    texts = [Observation("wet", "llm", site=s, recorded_at=m) for s, m in zip(sites[:150], moments, strict=False)]
    stored.write(tmp_path / "events.db", events, texts)
    opened = Store(tmp_path)
    yield opened
    opened.close()


def told(store: Store) -> list[dict[str, int]]:
    found = []
    for site in SITES:
        with Reader(store.path, site) as reader:
            status = reader.status()
            assert reader.count_events() == status["events"]
            found.append({kind: status[kind] for kind in KINDS})
    return found


def there(store: Store) -> list[dict[str, int]]:
    connection = apsw.Connection(str(store.path), flags=apsw.SQLITE_OPEN_READONLY)
    rows = [
        {kind: connection.execute(f"SELECT count(*) FROM {kind} WHERE site = ?", (site,)).get for kind in KINDS}
        for site in SITES
    ]
    connection.close()
    return rows


def test_whatever_is_counted_and_removed_in_whatever_order_the_sum_is_right(store):
    chance = random.Random(2)
    assert told(store) == there(store), "nothing is counted yet"
    days = [1, 2, 3]
    while days or store.uncounted():
        if days and chance.random() < 0.5:
            day = days.pop()
            while store.delete_of(f"2026-11-{day:02}", store.last_id(), 17):
                if chance.random() < 0.3:
                    store.count_up(40)
                assert told(store) == there(store)
        else:
            store.count_up(chance.randrange(1, 90))
            assert told(store) == there(store)
    assert sum(site["events"] for site in told(store)) > 0


def test_what_was_counted_is_not_looked_at_again(store):
    while store.uncounted():
        store.count_up(1_000)
    looked_at = 0

    def steps() -> bool:
        nonlocal looked_at
        looked_at += 1
        return False

    with Reader(store.path, "home") as reader:
        reader.count_events()  # opening has looked at the schema by now
        reader._connection.set_progress_handler(steps, 10)
        assert reader.count_events() > 200
    assert looked_at < 20


def test_the_daemon_counts_what_an_older_one_left_and_what_comes(daemon):
    for _ in range(3):
        with daemon.publisher() as publisher:
            publisher.insert_events([Event("door") for _ in range(COUNT_ROWS // 2)])
    assert daemon.reader().count_events() == 3 * COUNT_ROWS // 2
    daemon.stop()
    daemon.start()
    wait_until_counted(daemon)
    assert daemon.reader().count_events() == 3 * COUNT_ROWS // 2
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door"))
    assert daemon.reader().count_events() == 3 * COUNT_ROWS // 2 + 1
    assert verify(daemon).returncode == 0


def wait_until_counted(daemon) -> None:
    def counted() -> int:
        with apsw.Connection(str(daemon.database), flags=apsw.SQLITE_OPEN_READONLY) as connection:
            return connection.execute("SELECT last_id FROM counted").get

    wait_for(lambda: counted() >= COUNT_ROWS, "it has counted")


def test_verify_finds_a_count_that_is_wrong(daemon):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door"))
    change(daemon, "UPDATE counted SET last_id = 1", "INSERT INTO counts VALUES ('default', 'events', 3)")
    found = verify(daemon)
    assert found.returncode
    assert "counts has 3 events of site default, and there are 1" in found.stdout + found.stderr


def test_the_index_of_texts_is_written_anew_once_a_tenth_of_all_was_removed(store):
    assert not store.wants_merge
    removed = store.delete_of("2026-11-01", store.last_id(), 20)
    assert 0 < removed <= 20
    assert not store.wants_merge
    while store.delete_of("2026-11-01", store.last_id(), 20):
        pass
    assert store.wants_merge
    assert store.merge_texts(1, begin=True), "it has more than one page"
    assert store.wants_merge, "whatever ends it there"
    while store.merge_texts(50, begin=False):
        pass
    assert not store.wants_merge
