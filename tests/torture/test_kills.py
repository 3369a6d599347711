"""SIGKILL of daemon, producers and commands, at chosen points and random moments, with ledgers kept outside."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from kill_books import Broken
from kill_machine import MODULES, Campaign, Tally
from kill_plans import PLANS
from lab import often
from zygote import Zygote

CAMPAIGNS = often(len(PLANS), 100)
KILLS = often(50, 100)
"""A campaign."""
CONTROL_KILLS = 30
CONTROL_CAMPAIGNS = 10

WITHOUT = [
    ("P1", "ack before commit", "the ack waits for the COMMIT"),
    ("P2", "spool later", "publish() returns when the record is in the spool"),
    ("P3", "no position", "a producer's position is looked up after a restart"),
    ("P6", "no snapshot", "an event is read with what belongs to it in one transaction"),
    ("P8", "no catching up", "the day logs are compared with the database after a crash"),
]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(*MODULES) as zygote:
        yield zygote


@pytest.mark.timeout(often(300, 3_000))
def test_whatever_is_killed_acked_is_stored_once_and_published_arrives(zygote, tmp_path, attack):
    attack.on(
        "P1, P2, P3, P6",
        "SIGKILL of daemon, producers, backups: in start, recovery, migration, commit, checkpoint, rotation, "
        "backup, thumbnail, log append, catch-up, mark, and at random moments",
        "kills",
    )
    tally = Tally()
    for number in range(CAMPAIGNS):
        plan = PLANS[number % len(PLANS)]
        home = tmp_path / str(number)
        home.mkdir()
        campaign = Campaign(zygote, home, attack.random(number), plan, tally)
        try:
            campaign.run(KILLS)
        except Broken as error:
            pytest.fail(f"campaign {number}, {plan}, {home}: {error}")
        finally:
            campaign.close()
            attack.runs = tally.kills
        shutil.rmtree(home)
    chosen, random = sum(tally.points.values()), sum(tally.moments.values())
    attack.note = (
        f"{chosen:,} at {len(tally.points)} chosen points, {random:,} at random moments; {tally.events:,} events"
    )
    print("chosen points:", dict(tally.points.most_common()), "random moments:", dict(tally.moments))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("promise", "sabotage", "protection"), WITHOUT, ids=[name for _, name, _ in WITHOUT])
def test_the_machine_sees_what_is_lost_without(promise, sabotage, protection, zygote, tmp_path, attack):
    attack.without(promise, protection, "kills")
    tally = Tally()
    for number in range(CONTROL_CAMPAIGNS):
        home = tmp_path / str(number)
        home.mkdir()
        campaign = Campaign(zygote, home, attack.random(number), PLANS[0], tally, sabotage)
        try:
            campaign.run(CONTROL_KILLS)
        except Broken as error:
            attack.caught += 1
            print(error)
            break
        finally:
            campaign.close()
            attack.runs = tally.kills
    assert attack.caught, f"not seen in {tally.kills} kills"
