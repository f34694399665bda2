"""Adding twice, adding changes, removing what is gone: what the report says, and what is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from m3qdrant import M3Encoder, M3Schema
from m3qdrant.errors import InputError
from tests.servers.blocking import waited

Agree = Callable[[Callable[[Any], Any]], Any]


def source(n: int, **changes: str) -> list[dict[str, Any]]:
    return [{"id": f"d{i}", "text": changes.get(f"d{i}", f"text {i}"), "n": i} for i in range(n)]


def counts(report: Any) -> dict[str, int]:
    return {name: n for name, n in report.to_dict().items() if isinstance(n, int) and n}


@pytest.mark.usefixtures("own_directory")
def test_a_second_run_resumes(agree: Agree, encoder: M3Encoder) -> None:
    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        first = counts(store.add(source(40)))
        again = counts(store.add(source(150)))
        changed = source(150, d3="another text")
        changed[5]["n"] = -5
        third = counts(store.add(changed))
        store = open_store(encoder)
        return [first, again, third, counts(store.add(changed)), vars(store.get("d5"))]

    first, again, third, fourth, d5 = agree(use)
    assert (first["added"], first["stored"]) == (40, 40)
    assert (again["added"], again["unchanged"], again["received"]) == (110, 40, 150)
    assert (third["replaced"], third["updated"], third["unchanged"]) == (1, 1, 148)
    assert fourth == {"received": 150, "unchanged": 150}
    assert d5 == {"id": "d5", "text": "text 5", "payload": {"n": -5}}


def test_other_options_encode_again(agree: Agree, encoder: M3Encoder) -> None:
    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        store.add(source(3))
        return [
            counts(store.add(source(3), max_length=5)),
            counts(store.add(source(3), max_length=5)),
            counts(store.add(source(3), max_length=5, long_documents="truncate")),
        ]

    shorter, same, policy = agree(use)
    assert shorter["replaced"] == policy["replaced"] == 3
    assert same["unchanged"] == 3


def test_what_an_application_adds_to_a_payload_is_no_change(
    agree: Agree, encoder: M3Encoder
) -> None:
    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        store.add(source(2))
        points = [d.point_id for d in store.documents()]
        waited(store, store.client.set_payload(store.collection, {"seen": True}, points=points))
        return [counts(store.add(source(2))), vars(store.get("d1"))]

    report, d1 = agree(use)
    assert report == {"received": 2, "unchanged": 2}
    assert d1["payload"] == {"n": 1, "seen": True}


def test_bad_documents_stand_in_the_report_and_the_rest_is_stored(
    agree: Agree, encoder: M3Encoder
) -> None:
    bad = [
        {"id": "no-text"},
        {"id": "inf", "text": "x", "n": math.inf},
        17,
        {"id": " ", "text": ""},
    ]
    items = [source(2)[0], *bad, source(2)[1], {"id": "d1", "text": "the later one"}]

    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        report = store.add(items)
        return [report, sorted((d.id, d.text) for d in store.documents())]

    report, stored = agree(use)
    assert [(f["id"], f["field"]) for f in report["failed"]] == [
        ("no-text", "text"),
        ("inf", "payload"),
        ("#3", "text"),
        ("' '", "id"),
    ]
    assert report["duplicates"] == 1
    assert stored == [["d0", "text 0"], ["d1", "the later one"]]


@pytest.mark.thinned(3)
@pytest.mark.parametrize("n", [0, 1, 127, 128, 129, 300])
def test_any_number_of_documents(agree: Agree, encoder: M3Encoder, n: int) -> None:
    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        return [counts(store.add(iter(source(n)))), store.count()]

    report, count = agree(use)
    assert report.get("added", 0) == count == n


def test_prune_removes_what_is_gone(agree: Agree, encoder: M3Encoder) -> None:
    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        store.add(source(20))
        kept = [item for item in source(20) if item["n"] % 3]
        kept[0] = {"id": kept[0]["id"]}  # broken now, but not gone
        first = counts(store.add(kept, prune=True))
        ids = sorted(d.id for d in store.documents())
        bounded = counts(store.add(source(5), prune={"n": {"lt": 10}}))
        return [first, ids, bounded, sorted(d.id for d in store.documents())]

    first, ids, bounded, after = agree(use)
    assert first["pruned"] == 7
    assert ids == sorted(f"d{i}" for i in range(20) if i % 3)
    assert bounded["pruned"] == 3  # d5, d7, d8
    assert after == sorted([f"d{i}" for i in range(5)] + [f"d{i}" for i in range(10, 20) if i % 3])


def test_prune_refuses_what_looks_like_a_mistake(agree: Agree, encoder: M3Encoder) -> None:
    def use(open_store: Any) -> Any:
        store = open_store(encoder, M3Schema(tenant="who"))
        store.add({"id": "a", "text": "theirs", "who": "them"})
        with pytest.raises(InputError, match="no documents"):
            store.add([], prune={"who": "them"})
        with pytest.raises(InputError, match="other tenants"):
            store.add({"id": "b", "text": "mine", "who": "me"}, prune=True)
        store.add({"id": "b", "text": "mine", "who": "me"}, prune={"who": "me"})
        return store.count()

    assert agree(use) == 2


def test_a_failing_source_keeps_what_came_before(agree: Agree, encoder: M3Encoder) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        yield from source(300)
        raise OSError("the disk is gone")

    def use(open_store: Any) -> Any:
        store = open_store(encoder)
        with pytest.raises(OSError, match="the disk is gone"):
            store.add(failing())
        return [store.count(), counts(store.add(source(300)))]

    stored, report = agree(use)
    assert stored == 256
    assert (report["unchanged"], report["added"]) == (256, 44)
