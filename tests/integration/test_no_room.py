"""Full in other ways than a disk without a free byte: a limit on a file's size, a quota. Refused, told, resumed."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import wait_for

from sightlog import DatabaseWriteError, Event


def file_may_have(daemon, size: int) -> None:
    """As on FAT at 4 GiB, or by LimitFSIZE= of a unit; -1: as large as it likes."""
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def refusals(daemon) -> list[str]:
    return [line["reason"] for line in daemon.logged() if line["event"].startswith("cannot write; producers")]


@pytest.mark.parametrize("file", ["events.db-wal", "events.db"])
def test_a_file_that_may_not_grow_refuses_and_work_resumes_when_it_may(daemon, file):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door", event_id="first"))
        limited = daemon.data_dir / file
        file_may_have(daemon, limited.stat().st_size + 100_000)

        def fill() -> None:
            for number in range(400):
                publisher.insert_event(Event("door", event_id=f"e{number}", llm_description="x" * 50_000))
                acked.append(f"e{number}")

        acked: list[str] = ["first"]
        with pytest.raises(DatabaseWriteError, match=r"storage_full.*the file may not grow"):
            fill()
        assert daemon.process.poll() is None
        file_may_have(daemon, -1)
        assert publisher.flush(60), "it resumes by itself"
        reader = daemon.reader()
        assert reader.get_event(f"e{len(acked) - 1}")
        assert set(acked) <= {event.event_id for event in reader.get_recent_events(1_000)}
    wait_for(lambda: any(line["event"] == "writing again" for line in daemon.logged()), "it says so")
    assert all("storage_full" in reason for reason in refusals(daemon))
    assert daemon.stop() == 0


@contextmanager
def write_fails_with(daemon, error: str) -> Iterator[None]:
    """Each write at an offset, as SQLite's are. The kernels of test machines have no quotas."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    command = ["strace", "-qq", "-f", "-p", str(daemon.process.pid), "-o", "/dev/null", "-e", "trace=pwrite64"]
    tracer = subprocess.Popen([*command, "-e", f"inject=pwrite64:error={error}"], stderr=subprocess.DEVNULL)
    status = Path(f"/proc/{daemon.process.pid}/status")
    try:
        wait_for(lambda: f"TracerPid:\t{tracer.pid}" in status.read_text() or tracer.poll() is not None, "it is traced")
        if tracer.poll() is not None:
            pytest.skip("strace may not trace here")
        yield
    finally:
        tracer.terminate()
        tracer.wait()


@pytest.mark.parametrize(("error", "said"), [("EDQUOT", "quota is used up"), ("ENOSPC", "no space left")])
def test_a_used_up_quota_is_full_and_no_io_error(daemon, error, said):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door"))
        with write_fails_with(daemon, error), pytest.raises(DatabaseWriteError, match=rf"storage_full.*{said}"):
            publisher.insert_event(Event("door"))
        assert publisher.flush(60), "it resumes by itself"
    assert daemon.reader().count_events() == 2
    assert daemon.stop() == 0


def test_an_io_error_still_ends_the_daemon(daemon):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door"))
        with write_fails_with(daemon, "EIO"):
            publisher.publish(Event("door"))
            assert daemon.process.wait(20) == 74
