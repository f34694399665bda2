"""Killed with -9 at any moment, an embedded collection keeps every acknowledged write.

A writer in a process of its own notes each operation in a journal before it calls the engine, and
notes it again when the call has returned. It is killed at a random moment, many times over on one
directory, so that damage would add up. Each new writer first compares everything on the disk with
the journal: every acknowledged operation is there, exact to the last bit of the vectors, and the
one that was under way is there whole or not at all. If it is there, it has been seen, and has to
stay like the acknowledged ones.

`M3QDRANT_CRASH_ROUNDS` sets how often it is killed, `M3QDRANT_CRASH_SEED` repeats a run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from m3qdrant.edge import QdrantEdge
from tests.edge.histories import (
    MAIN,
    SIDE,
    Operation,
    State,
    after,
    call,
    compare,
    create,
    leave_unflushed,
)
from tests.edge.small import processes

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "SIGKILL") or "forkserver" not in multiprocessing.get_all_start_methods(),
    reason="this system has no SIGKILL or no fork server",
)

ROUNDS = int(os.environ.get("M3QDRANT_CRASH_ROUNDS", "30"))
SEED = int(os.environ.get("M3QDRANT_CRASH_SEED", random.randrange(10**6)))

WEIGHTS: dict[str, dict[str, float]] = {
    "writes": {"upsert": 8, "delete": 2, "set": 2, "clear": 1, "delete_where": 1, "optimize": 0.2},
    "optimize": {"optimize": 3, "upsert": 2, "delete": 1},
    "collections": {"toggle": 6, "upsert_side": 2, "upsert": 1},
    "indexes": {"index": 4, "drop_index": 4, "upsert": 2, "set": 1},
    "metadata": {"metadata": 4, "upsert": 1},
}
LONGEST = {"writes": 0.25, "optimize": 0.8, "collections": 0.3, "indexes": 0.25, "metadata": 0.1}
"""For each kind of round, how likely its operations are, and the latest moment of death (s)."""


def replay(journal: Path) -> tuple[State, Operation | None, int]:
    """The acknowledged state, the operation that was under way, and the next number."""
    state, pending, number = State({}, None, False, {}), None, 0
    for line in journal.read_text().splitlines():
        what, *rest = json.loads(line)
        if what == "begin":
            pending = Operation(*rest)
            number = pending.number + 1
        else:
            assert pending is not None
            if what == "done":
                state = after(state, pending)
            pending = None
    return state, pending, number


# the writer


def write(path: Path, journal: Path, kind: str, seed: int, to_parent: Connection) -> None:
    """The writer's process: compare, say so, and write until killed."""
    try:
        client = QdrantEdge(path)
        state, number = compared(client, journal)
        to_parent.send("")
        if kind == "compare":
            client.close()
            return
        rng = random.Random(seed)
        names, weights = zip(*WEIGHTS[kind].items(), strict=True)
        with journal.open("a", buffering=1) as notes:
            while True:
                operation = Operation(number, rng.choices(names, weights)[0])
                notes.write(json.dumps(["begin", *operation]) + "\n")
                call(client, operation, state)
                notes.write('["done"]\n')
                state = after(state, operation)
                number += 1
    except BaseException as error:
        to_parent.send(f"{type(error).__name__}: {error}")
        raise


def compared(client: QdrantEdge, journal: Path) -> tuple[State, int]:
    """The state on the disk, which has to be one of the two that the journal allows."""
    state, pending, number = replay(journal)
    differences = compare(client, state)
    if pending is not None:
        outcome = "lost"
        if differences:
            state, outcome = after(state, pending), "done"
            without, differences = differences, compare(client, state)
            if differences:
                differences = f"without {pending}: {without}; with it: {differences}"
        if not differences:
            with journal.open("a") as notes:
                notes.write(json.dumps([outcome]) + "\n")
    assert not differences, differences
    return state, number


# the killer


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path) -> None:
    path, journal = tmp_path / "data", tmp_path / "journal"
    journal.touch()
    with QdrantEdge(path) as client:
        create(client, MAIN)
    rng = random.Random(SEED)
    context = processes()
    caught_in: Counter[str] = Counter()
    for number in range(ROUNDS + 1):
        kind = rng.choice(list(WEIGHTS)) if number < ROUNDS else "compare"
        where = f"seed {SEED}, round {number}, {kind}"
        from_child, to_parent = context.Pipe(duplex=False)
        child = context.Process(
            target=write, args=(path, journal, kind, rng.randrange(2**32), to_parent)
        )
        child.start()
        to_parent.close()
        try:
            if kind != "compare" and rng.random() < 0.2:
                time.sleep(rng.uniform(0, 0.15))  # while it opens and recovers
                caught_in["opening"] += 1
            else:
                assert from_child.poll(120), f"{where}: opening hangs"
                complaint = receive(from_child)
                assert complaint == "", f"{where}: {complaint}"
                if kind != "compare":
                    time.sleep(rng.uniform(0, LONGEST[kind]))
        finally:
            if kind != "compare":
                child.kill()
            child.join(120)
        if kind == "compare":
            assert child.exitcode == 0
        else:
            complaint = receive(from_child) if from_child.poll() else ""
            assert complaint == "", f"{where}: {complaint}"
            assert child.exitcode == -signal.SIGKILL, f"{where}: it ended with {child.exitcode}"
            _, pending, _ = replay(journal)
            caught_in[pending.name if pending else "between"] += 1
        from_child.close()
    _, _, operations = replay(journal)
    print(f"seed {SEED}: {ROUNDS} kills, {operations} operations; caught in {dict(caught_in)}")
    leftovers = [n for n in os.listdir(path) if n not in (MAIN, SIDE, "meta.json")]
    assert not [n for n in leftovers if not n.startswith((".making-", ".deleting-"))]


def test_what_was_recovered_is_flushed_before_it_is_seen(tmp_path: Path) -> None:
    """Or the next crash would replay it again, on top of what came after, which isn't exact."""
    state = State({}, None, False, {})
    with QdrantEdge(tmp_path) as client:
        create(client, MAIN)
        for k in range(3):
            call(client, Operation(k, "upsert"), state)
            state = after(state, Operation(k, "upsert"))
    child = processes().Process(target=leave_unflushed, args=(tmp_path,))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL

    def flushed() -> int:
        """The number of the last operation that the engine needn't replay."""
        return int(
            json.loads((tmp_path / MAIN / "shard/wal/first-index").read_text())["ack_index"]
        )

    for k in range(3, 6):
        state = after(state, Operation(k, "upsert"))
    assert flushed() == 2
    with QdrantEdge(tmp_path) as client:
        assert client.count(MAIN).count == len(state.main)
        assert flushed() == 5
        assert compare(client, state) == ""


def receive(connection: Connection) -> str:
    try:
        return str(connection.recv())
    except EOFError:
        return ""
