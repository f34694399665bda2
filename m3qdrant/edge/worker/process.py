"""The handle of the worker process, which runs the engine so that its GIL isn't ours.

`Worker` starts `serve` (see serving.py) in a fresh interpreter (the engine hangs in a forked one),
hands it calls, and gives their answers as futures. Two threads do the work, so that nobody who
asks waits for a pipe.

The two are joined by a socket pair, which is also how each learns of the other's end: whoever
reads the end of the stream knows that the other process is gone, however it went.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, KeysView, ValuesView
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, NamedTuple

from m3qdrant.edge.worker.channel import Channel, Message, dumps, loads
from m3qdrant.errors import EngineError, InputError, StoreClosedError

__all__ = ["InWorkerError", "Worker"]

_START = (
    "import sys; sys.path[:] = sys.argv[4:]; "
    # Ctrl-C goes to every process of the terminal: the parent decides what it means
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    # what modules make stays: a look for garbage among it would take a fifth of the start
    "import gc; gc.disable(); "
    "from m3qdrant.edge.worker.serving import serve; "
    "gc.freeze(); gc.enable(); "
    "serve(int(sys.argv[1]), sys.argv[2], sys.argv[3].split())"
)
"""Not `python -m`, which looks for modules in the current directory first, and not
multiprocessing, which would import the user's main module once more."""

_PATIENCE = 10.0
"""Seconds that the interpreter's exit waits for a worker that nobody closed. Then it is killed,
which costs no acknowledged write."""


class InWorkerError(Exception):
    """The cause of an error from the worker process: its traceback there, causes included."""


class _Request(NamedTuple):
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    answer: Future[Any]


class Worker:
    """A process that runs the engine over the directory `path`, from now until `stop`.

    Any thread may call. Its own threads don't keep the interpreter from ending.
    """

    def __init__(self, path: Path, **options: bool) -> None:
        """Start the process; `options` are those of `QdrantEdge`."""
        self.path = path
        self.options = options
        self.ended: Future[None] = Future()
        self.ended.set_running_or_notify_cancel()  # who waits for it may not cancel it
        self._reason = ""
        self._cause: Exception | None = None
        self._stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._waiting: dict[int, Future[Any]] = {}
        # stop() may run in the middle of the other methods, when a dropped client is collected
        self._lock = threading.RLock()
        _alive.add(self)
        threading.Thread(target=self._send, name="m3qdrant-send", daemon=True).start()

    @property
    def pid(self) -> int | None:
        """The process's number; None until it has started."""
        return None if self._process is None else self._process.pid

    def submit(self, method: str, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a method of the worker's `QdrantEdge`.

        A future that is cancelled before its call was sent takes the call back; later, only the
        answer is dropped.

        Raises:
            EngineError: the worker has ended.
            StoreClosedError: `stop` was called.
        """
        answer: Future[Any] = Future()
        with self._lock:
            if self._reason:
                raise self._gone()
            if self._stopping:
                raise StoreClosedError(f"the worker process of {self.path} is stopping")
            self._requests.put(_Request(method, args, kwargs, answer))
        return answer

    def stop(self) -> None:
        """Let the process end once it has done what it was asked before. Doesn't wait for it."""
        with self._lock:
            if not self._stopping:
                self._stopping = True
                self._requests.put(None)

    def kill(self) -> None:
        """End the process now. Every acknowledged write is safe."""
        if self._process is not None:
            self._process.kill()

    def forget(self) -> None:
        """In a forked child: let go of the copy of our end, or the worker would wait for it."""
        self._lock = threading.RLock()  # a thread that the child lacks may have held the old one
        if self._channel is not None:
            self._channel.socket.close()

    def _send(self) -> None:
        """The first thread: start the process, then send requests until `stop`."""
        try:
            channel = self._channel = self._start()
        except (OSError, ValueError) as error:
            self._end(f"the worker process of {self.path} could not be started: {error}", error)
            return
        threading.Thread(
            target=self._receive, args=(channel,), name="m3qdrant-receive", daemon=True
        ).start()
        number = 0
        while (request := self._requests.get()) is not None:
            number += 1
            self._send_one(channel, number, request)
            del request  # its arrays may be large
        with contextlib.suppress(OSError):  # the process may have ended before
            channel.socket.shutdown(socket.SHUT_WR)

    def _start(self) -> Channel:
        ours, theirs = socket.socketpair()
        with theirs:
            modules = [os.path.abspath(p) for p in sys.path if isinstance(p, str)]
            options = " ".join(f"{name}={int(on)}" for name, on in self.options.items())
            arguments = [str(theirs.fileno()), str(self.path), options]
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, *arguments, *modules],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        return Channel(ours)

    def _send_one(self, channel: Channel, number: int, request: _Request) -> None:
        answer = request.answer
        if answer.cancelled():
            return
        try:
            args = [_crossing(value) for value in request.args]
            kwargs = {name: _crossing(value) for name, value in request.kwargs.items()}
            parcel = dumps((request.method, args, kwargs))
        except Exception as error:
            if answer.set_running_or_notify_cancel():
                refusal = InputError(
                    f"an argument of {request.method} can't be handed to the worker process "
                    f"({error}): pass qdrant-client's models, arrays and plain values"
                )
                refusal.__cause__ = error
                answer.set_exception(refusal)
            return
        with self._lock:
            ended = bool(self._reason)
            if not ended:
                self._waiting[number] = answer
        if ended:
            self._fail(answer)
            return
        with contextlib.suppress(OSError):  # the other thread sees the end too, and tells everyone
            channel.send(number, False, parcel)

    def _receive(self, channel: Channel) -> None:
        """The second thread: hand out answers until the process has ended."""
        while (message := channel.receive()) is not None:
            with self._lock:
                answer = self._waiting.pop(message.number)
            if answer.set_running_or_notify_cancel():
                _settle(answer, message)
            del message, answer  # they may be large
        assert self._process is not None
        status = self._process.wait()
        channel.socket.close()
        self._end(
            f"the worker process of {self.path} has ended ({_in_words(status)}): what it had "
            "acknowledged is safe, a call that was under way may be done or not; open the "
            "directory again"
        )

    def _end(self, reason: str, cause: Exception | None = None) -> None:
        """Tell all who wait that there will be no answer."""
        with self._lock:
            self._reason, self._cause = reason, cause
            answers = list(self._waiting.values())
            self._waiting.clear()
            while True:
                try:
                    request = self._requests.get_nowait()
                except queue.Empty:
                    break
                if request is not None:
                    answers.append(request.answer)
            self._requests.put(None)  # the sending thread ends
        for answer in answers:
            self._fail(answer)
        self.ended.set_result(None)

    def _fail(self, answer: Future[Any]) -> None:
        if answer.set_running_or_notify_cancel():
            answer.set_exception(self._gone())

    def _gone(self) -> EngineError:
        # a new one each time: each collects the traceback of the task that it is raised in
        error = EngineError(self._reason)
        error.__cause__ = self._cause
        return error


def _crossing(value: Any) -> Any:
    """A generator can't cross: what it gives can."""
    return list(value) if isinstance(value, (Iterator, KeysView, ValuesView)) else value


def _settle(answer: Future[Any], message: Message) -> None:
    try:
        value = loads(message)
    except Exception as error:
        answer.set_exception(error)
        return
    if not message.mark:
        answer.set_result(value)
        return
    raised, trace = value
    raised.__cause__ = InWorkerError(trace)
    answer.set_exception(raised)


def _in_words(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


# this interpreter's end, and its forks

_alive: weakref.WeakSet[Worker] = weakref.WeakSet()


def _stop_all() -> None:
    workers = {worker.ended: worker for worker in _alive}
    for worker in workers.values():
        worker.stop()
    for ended in wait(workers, _PATIENCE).not_done:
        workers[ended].kill()


def _forget_all() -> None:
    for worker in list(_alive):
        worker.forget()
    _alive.clear()


atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
