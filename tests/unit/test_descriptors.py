"""How many descriptors are in use is known also when there is none left to look."""

from __future__ import annotations

import os
import resource

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
    assert found.short
    assert not descriptors.Descriptors(32, 65_536).short
