"""How many descriptors are in use is known also when there is none left to look."""

from __future__ import annotations

import os
import resource

import pytest

from sightlogd import descriptors


def test_what_is_opened_is_counted():
    before = descriptors.count()
    assert before.most == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    fds = [os.dup(2) for _ in range(7)]
    try:
        assert descriptors.count().open == before.open + 7
    finally:
        for fd in fds:
            os.close(fd)


def test_none_left_is_short():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(2)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        found = descriptors.count()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert found == (free, free)
    assert found.room(remote=False) == 0


@pytest.mark.parametrize("most", [64, 256, 1_024, 65_536, 2**30])
def test_connections_leave_room_for_files_and_those_from_elsewhere_for_this_machines(most):
    for used in range(0, 5_000, 7):
        found = descriptors.Descriptors(used, most)
        assert 0 <= found.room(remote=False) <= max(0, most - used)
        assert used + found.room(remote=False) <= max(used, descriptors.OPEN_MAX)
        assert used >= most or used + found.room(remote=False) <= max(used, most - min(64, most // 2))
        assert found.room(remote=True) <= max(0, found.admitted // 2 - used)
    assert descriptors.Descriptors(20, most).room(remote=False) > 0
