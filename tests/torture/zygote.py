"""A fork server: processes that run the product's own functions, without paying for its imports each time.

    with Zygote("kill_roles") as zygote:
        process = zygote.start("kill_roles:daemon", [["run", "--data-dir", "…"]], log)
        process.kill()
        process.wait() == -signal.SIGKILL

The zygote is a fresh interpreter that imports the modules given to it and then only forks: it has no threads, no
sockets of ZeroMQ and no databases that a child could inherit. Its children die with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

MESSAGE_BYTES_MAX = 65_536
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


class Process:
    """A child of the zygote's. Killed and waited for by descriptor: a number that was given out again is never hit."""

    def __init__(self, zygote: Zygote, pid: int, fd: int) -> None:
        self.pid = pid
        self._zygote = zygote
        self._fd = fd
        self._code: int | None = None

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Nothing when it has ended."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)

    def poll(self) -> int | None:
        return self._code if self._code is not None or not self.ended_within(0) else self.wait()

    def ended_within(self, seconds: float) -> bool:
        return self._code is not None or any_ended([self], seconds)

    def wait(self, timeout: float = 60) -> int:
        """The exit code; a signal's number is negative."""
        if self._code is None:
            assert self.ended_within(timeout), f"process {self.pid} still runs after {timeout} s"
            self._code = int(self._zygote.ask({"reap": self.pid})[0])
            os.close(self._fd)
        return self._code

    def fileno(self) -> int:
        """Readable once it has ended."""
        return self._fd


def any_ended(processes: Sequence[Process], seconds: float) -> bool:
    """Waits at most so long for the end of one of them."""
    poll = select.poll()
    for process in processes:
        poll.register(process, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


class Zygote:
    """`modules` are imported before the first fork."""

    def __init__(self, *modules: str) -> None:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = os.pathsep.join(part for part in sys.path if part)
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(its.fileno()), *modules],
            pass_fds=[its.fileno()],
            env={**os.environ, "PYTHONPATH": path},
        )
        its.close()
        self._socket = mine

    def start(self, function: str, arguments: Sequence[Any], log: Path) -> Process:
        """Run `module:function` in a process of its own; its result is the exit code, and `log` gets what it prints."""
        (pid,), fds = self._ask({"start": function, "arguments": arguments, "log": str(log)})
        return Process(self, pid, fds[0])

    def run(self, function: str, arguments: Sequence[Any], log: Path, timeout: float = 60) -> int:
        return self.start(function, arguments, log).wait(timeout)

    def ask(self, request: dict[str, Any]) -> list[int]:
        return self._ask(request)[0]

    def _ask(self, request: dict[str, Any]) -> tuple[list[int], list[int]]:
        self._socket.send(json.dumps(request).encode())
        data, fds, _, _ = socket.recv_fds(self._socket, MESSAGE_BYTES_MAX, 1)
        assert data, "the zygote has ended"
        return json.loads(data), fds

    def close(self) -> None:
        self._socket.close()
        self._process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main(fd: int, modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    # Children of children whose parent was killed would stay as zombies where process 1 does not look after them.
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # the collector would write to pages that the children share
    requests = socket.socket(fileno=fd)
    running: set[int] = set()
    ended: dict[int, int] = {}
    while data := requests.recv(MESSAGE_BYTES_MAX):
        request = json.loads(data)
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, 0 if request.get("reap") in running - ended.keys() else os.WNOHANG))[0]:
                if found[0] in running:
                    ended[found[0]] = os.waitstatus_to_exitcode(found[1])
        if pid := request.get("reap"):
            running.discard(pid)
            requests.send(json.dumps([ended.pop(pid)]).encode())
            continue
        pid = os.fork()
        if pid == 0:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            requests.close()
            _become(request)
        running.add(pid)
        child = os.pidfd_open(pid)
        socket.send_fds(requests, [json.dumps([pid]).encode()], [child])
        os.close(child)


def _become(request: dict[str, Any]) -> NoReturn:
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        gc.unfreeze()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        module, _, name = request["start"].partition(":")
        code = getattr(sys.modules[module], name)(*request["arguments"]) or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - whatever it is, the log tells
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
