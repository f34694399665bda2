"""The worker process itself: it runs calls on a `QdrantEdge`, one by one, as they arrive."""

from __future__ import annotations

import pickle
import socket
import traceback
from collections.abc import Iterable

from m3qdrant.edge.client import QdrantEdge
from m3qdrant.edge.worker.channel import Channel, Message, Parcel, dumps, loads
from m3qdrant.errors import EngineError, InputError

__all__ = ["serve"]


def serve(descriptor: int, path: str, options: Iterable[str]) -> None:
    """Run calls until the parent closes its end, or is gone; then close the collections.

    Args:
        descriptor: of our end of the socket pair.
        path: the directory.
        options: those of `QdrantEdge`, such as "auto_index=1".
    """
    channel = Channel(socket.socket(fileno=descriptor))
    chosen = dict(option.split("=") for option in options)
    with QdrantEdge(path, **{name: value == "1" for name, value in chosen.items()}) as engine:
        while (message := channel.receive()) is not None:
            number = message.number
            mark, parcel = _answer(engine, message)
            del message
            try:
                channel.send(number, mark, parcel)
            except OSError:
                break  # the parent is gone
            del parcel


def _answer(engine: QdrantEdge, message: Message) -> tuple[bool, Parcel]:
    try:
        method, args, kwargs = loads(message)
    except Exception as error:
        refusal = InputError(
            f"the arguments can't be read in the worker process ({error}): pass qdrant-client's "
            "models, arrays and plain values, no classes of your own program"
        )
        return True, _portable(refusal, error)
    try:
        return False, dumps(getattr(engine, method)(*args, **kwargs))
    except BaseException as error:  # a panic of the engine is no Exception
        return True, _portable(error, error)


def _portable(error: BaseException, origin: BaseException) -> Parcel:
    """The error, or one of ours with its text where it can't cross, and its traceback."""
    trace = "".join(traceback.format_exception(type(origin), origin, origin.__traceback__))
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return dumps((error, trace))
    except Exception:
        pass
    return dumps((EngineError(f"{type(error).__name__}: {error}"), trace))
