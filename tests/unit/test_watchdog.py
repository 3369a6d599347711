"""Which signs of life count, and what a thread that waits looks like."""

from __future__ import annotations

import pytest

from sightlogd.service.watchdog import Phase, Seen, makes_progress, seen

BEFORE = Seen(beats=10, state="S", ticks=500)


@pytest.mark.parametrize(
    ("phase", "now", "alive"),
    [
        (Phase.SERVING, Seen(11, "S", 500), True),
        (Phase.SERVING, Seen(10, "S", 500), False),  # waits for a lock
        (Phase.SERVING, Seen(10, "R", 900), False),  # runs in circles
        (Phase.SERVING, Seen(10, "D", 500), True),  # waits for the card
        (Phase.SERVING, Seen(10, "T", 500), False),
        (Phase.STARTING, Seen(10, "R", 501), True),
        (Phase.STARTING, Seen(10, "D", 500), True),
        (Phase.STARTING, Seen(10, "S", 500), False),
        (Phase.STOPPING, Seen(10, "S", 501), True),
        (Phase.STOPPING, Seen(10, "S", 500), False),
    ],
)
def test_a_turn_of_the_loop_or_a_slow_card_is_progress_and_a_lock_is_not(phase, now, alive):
    assert makes_progress(phase, BEFORE, now) is alive


def test_a_thread_is_read_whatever_its_name_is():
    stat = "4711 (a ) R (b) D 1 2 3 4 5 6 7 8 9 10 40 2 0 0 20 0 1 0 100 0 0"
    assert seen(7, stat) == Seen(7, "D", 42)


def test_the_kernel_says_it_so():
    with open("/proc/self/stat", encoding="utf-8") as file:
        look = seen(0, file.read())
    assert look.state == "R"
    assert look.ticks > 0
