"""The doctor: every finding on a collection that has the fault, none on one that hasn't."""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from m3qdrant import M3Encoder, M3Schema, M3Store, QdrantEdge, transport
from m3qdrant.collection import SERVER
from m3qdrant.edge.disk import space
from m3qdrant.errors import InputError
from m3qdrant.names import MIGRATION
from m3qdrant.upkeep.doctor import disk_space, examine, server_version, size_on_disk
from m3qdrant.upkeep.doctor import facts as collect
from m3qdrant.upkeep.findings import Facts, Finding, field_kinds, judge
from tests.servers.real import real_server
from tests.servers.rest import RestServer, Status
from tests.upkeep.worlds import World

ROWS = [
    {"id": str(i), "text": f"text number {i}", "year": 2000 + i, "lang": "de", "seen": i % 2 == 0}
    for i in range(12)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, encoder: M3Encoder) -> Path:
    """A healthy collection, all of whose fields are indexed."""
    root = tmp_path_factory.mktemp("doctor") / "data"
    schema = M3Schema(payload_indexes={"year": "integer", "lang": "keyword", "seen": "bool"})
    with M3Store(root, "docs", encoder, schema) as store:
        store.add(ROWS)
    return root


@pytest.fixture
def copy(place: Path, tmp_path: Path) -> Path:
    """It once more, to be spoilt."""
    shutil.copytree(place, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def facts(place: Path) -> Facts:
    with QdrantEdge(place) as client:
        return facts_of(client)


def facts_of(client: Any, name: str = "docs") -> Facts:
    return transport.run(client, collect(name, transport.capabilities_of(client)), where="here")


def serious(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity in ("error", "warning")]


def changed(facts: Facts, **parts: Any) -> Facts:
    """Facts of a collection with other settings, given as dotted paths into its info."""
    info = facts.info.model_copy(deep=True)
    for path, value in parts.items():
        *steps, last = path.split("__")
        owner: Any = info
        for step in steps:
            owner = owner[step] if isinstance(owner, dict) else getattr(owner, step)
        if isinstance(owner, dict):
            owner[last] = value
        else:
            setattr(owner, last, value)
    return replace(facts, info=info)


def only(findings: list[Finding], severity: str, *words: str) -> Finding:
    """The one finding of this severity; it says these words."""
    (found,) = [finding for finding in findings if finding.severity == severity]
    for word in words:
        assert word in f"{found.what} -> {found.remedy}"
    return found


def test_a_healthy_collection(world: World, place: Path) -> None:
    findings = world.examine(place)
    assert {finding.severity for finding in findings} == {"ok"}
    text = " ".join(finding.what for finding in findings)
    for word in ("python 3.", "torch ", "qdrant-edge-py", "on disk", "12 points"):
        assert word in text
    assert findings[-1].collection == "docs"


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    notes = [f.what for f in examine(tmp_path / "not-there") if f.severity == "note"]
    assert any("is not there yet" in note for note in notes)
    assert not (tmp_path / "not-there").exists()


def test_a_collection_that_is_open_elsewhere(world: World, place: Path) -> None:
    code = (
        "import sys\n"
        "from m3qdrant import QdrantEdge\n"
        "client = QdrantEdge(sys.argv[1])\n"
        "client.get_collection('docs')\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"open\n"
        found = only(world.examine(place), "warning", "open in another process", "closed there")
        assert str(place / "docs") in found.what
        assert found.collection == "docs"
    finally:
        other.communicate()


def test_damaged_and_foreign_directories(copy: Path, tmp_path: Path) -> None:
    with QdrantEdge(copy) as client:
        client.get_collection("docs")  # so that it is closed in good order
    shutil.rmtree(copy / "docs" / "shard" / "segments")
    only(examine(copy), "error", "is missing. Restore it", str(copy / "docs"))
    (copy / "docs" / "closed.json").unlink()
    only(examine(copy), "error", "restore", str(copy / "docs"))
    (copy / "docs" / "collection.json").write_text("{")
    only(examine(copy), "error", "can't be read")
    (copy / "docs" / "collection.json").unlink()
    only(examine(copy), "warning", "has no collection.json", "restore")
    (tmp_path / "file").write_text("x")
    only(examine(tmp_path / "file"), "error", "is a file")


def test_leftovers(copy: Path) -> None:
    for name in (".making-1", ".deleting-2"):
        (copy / name).mkdir()
        (copy / name / "data").write_bytes(b"x" * 10_000)
    findings = [finding for finding in examine(copy) if finding.collection is None]
    notes = [finding for finding in findings if finding.severity == "note"]
    assert [Path(note.what.split()[0]).name for note in notes] == [".making-1", ".deleting-2"]
    assert all("remove it" in (note.remedy or "") for note in notes)


def test_names_and_locations_that_are_not_there(world: World, place: Path) -> None:
    only(world.examine(place, "nope"), "error", "no collection 'nope'; those there are docs")
    with pytest.raises(InputError, match="memory"):
        world.examine(":memory:")
    with pytest.raises(InputError, match="begins with http"):
        world.examine("localhost:6333")


def test_a_server_that_does_not_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from m3qdrant.transport import Retries, connecting

    monkeypatch.setattr(connecting, "_CONNECTING", Retries(attempts=1))
    only(world.examine("http://127.0.0.1:9"), "error", "127.0.0.1")


@pytest.mark.parametrize(
    ("size", "free", "severity"),
    [(10**9, 10**10, "ok"), (10**9, 9 * 10**8, "warning"), (10, 10**8, "error")],
)
def test_disk_space(size: int, free: int, severity: str) -> None:
    finding = disk_space(size, free)
    assert finding.severity == severity
    assert (finding.remedy is None) == (severity == "ok")


def test_size_on_disk(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"x" * 100_000)
    assert 100_000 <= size_on_disk(tmp_path) < 200_000


@pytest.mark.parametrize(
    ("version", "severity", "words"),
    [
        ("1.20.0", "ok", "every search mode"),
        ("1.13.4", "warning", "is too old for metadata -> upgrade it to 1.16"),
        ("1.9.0", "error", "upgrade it to 1.16"),
    ],
)
def test_server_versions(version: str, severity: str, words: str) -> None:
    (finding,) = server_version(version)
    assert finding.severity == severity
    assert words in f"{finding.what} -> {finding.remedy}"


# -- rules over one collection's facts


def test_no_rule_speaks_of_a_healthy_collection(facts: Facts) -> None:
    assert judge(facts) == [Finding("ok", "12 points", None, "docs")]


def test_a_collection_of_another_program(tmp_path: Path) -> None:
    with QdrantEdge(tmp_path) as client:
        client.create_collection(
            "docs", {"v": models.VectorParams(size=3, distance=models.Distance.DOT)}
        )
        only(judge(facts_of(client)), "warning", "another program", "no vector named 'dense'")


def test_in_memory_mode_is_spared_what_it_has_not(encoder: M3Encoder) -> None:
    client = QdrantClient(":memory:")
    with M3Store(client, "docs", encoder) as store:
        store.add(ROWS)
        assert serious(judge(facts_of(client))) == []


def test_a_graph_over_colbert(tmp_path: Path, encoder: M3Encoder, facts: Facts) -> None:
    with M3Store(tmp_path, "docs", encoder, M3Schema(colbert_hnsw=True)) as store:
        store.add(ROWS[:2])
        graph = facts_of(store.client)
    only(judge(graph), "warning", "HNSW graph (m = 16)", "new collection with colbert_hnsw=False")
    only(judge(replace(graph, capabilities=SERVER)), "warning", "HnswConfigDiff(m=0)")
    # where the vector says nothing, the collection's own setting counts
    bare = changed(facts, config__params__vectors__colbert__hnsw_config=None)
    assert any("HNSW graph" in finding.what for finding in judge(bare))


def test_multivectors_at_and_over_the_limit(facts: Facts) -> None:
    size = facts.vectors["colbert"].size
    most = 1_048_575 // size
    long = [
        models.Record(id=1, vector={"colbert": [[0.0]] * most}),
        models.Record(id=2, vector={"colbert": [[0.0]] * 5}),
    ]
    only(judge(replace(facts, long_sample=long)), "note", f"1 of 2 sampled points have {most:,}")
    long[1].vector = {"colbert": [[0.0]] * (most + 1)}
    only(judge(replace(facts, long_sample=long)), "error", "more than", "can't move")
    # the facts really hold the lengths
    vectors: list[Any] = [record.vector for record in facts.long_sample]
    assert [len(vector["colbert"]) > 0 for vector in vectors] == [True] * 12


def test_unindexed_vectors(facts: Facts) -> None:
    only(judge(replace(facts, unindexed=20_000)), "warning", "20,000 of 12", "m3qdrant optimize")


def test_payload_fields_without_an_index(place: Path, encoder: M3Encoder, copy: Path) -> None:
    rows = [{**row, "where": {"city": "Berlin"}, "tags": ["a", "b"]} for row in ROWS]
    with M3Store(copy, "docs", encoder) as store:
        store.add(rows)
        facts = facts_of(store.client)
        only(judge(facts), "note", "tags, where.city;", '"where.city": "keyword"')
        only(judge(replace(facts, points=10_000)), "warning", "10,000 payloads")
        # the remedy works
        client: Any = store.client  # which takes the remedy's own words, whatever mypy is told
        client.create_payload_index("docs", "where.city", "keyword")
        client.create_payload_index("docs", "tags", "keyword")
        assert [f.severity for f in judge(facts_of(store.client))] == ["ok"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "integer"),
        ([1, 2.5], "float"),
        ([True, False], "bool"),
        ([True, 1], None),
        (["a", "b"], "keyword"),
        (["a", 1], None),
        (["2020-01-01", "2021-02-03T04:05:06Z"], "datetime"),
        (["20200101"], "keyword"),
        ([str(uuid.uuid4())], "uuid"),
        ([{"lat": 1.0, "lon": 2.0}], "geo"),
        (["x" * 1000], None),
        ([None], None),
        ([["a"], ["b", "c"]], "keyword"),
        ([], None),
    ],
)
def test_field_kinds(values: list[Any], kind: str | None) -> None:
    payloads = [{"text": "x", "_m3": {"id": "1"}, "field": value} for value in values]
    assert field_kinds(payloads) == ({"field": kind} if kind else {})


def test_fields_within_fields() -> None:
    payload = {"a": {"b": {"c": 1}}, "list": [{"d": "x"}, {"d": "y"}]}
    assert field_kinds([payload]) == {"a.b.c": "integer", "list[].d": "keyword"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(st.dictionaries(st.text(), json_values, max_size=4), max_size=4))
def test_any_payload_can_be_looked_at(payloads: list[dict[str, Any]]) -> None:
    kinds = set(field_kinds(payloads).values())
    assert kinds <= {"bool", "integer", "float", "geo", "uuid", "datetime", "keyword"}


def with_entry(facts: Facts, position: int, entry: Any) -> Facts:
    sample = [record.model_copy(deep=True) for record in facts.sample]
    payload: dict[str, Any] = dict(sample[position].payload or {})
    if entry is None:
        del payload["_m3"]
    else:
        payload["_m3"] = entry
    sample[position].payload = payload
    return replace(facts, sample=sample)


def test_points_of_another_model(facts: Facts) -> None:
    entry = dict((facts.sample[3].payload or {})["_m3"])
    spoilt = with_entry(facts, 3, {**entry, "model": "other"})
    only(judge(spoilt), "error", "1 of 12 sampled points were encoded by another model")
    spoilt = with_entry(facts, 3, {**entry, "model": None})
    only(judge(spoilt), "note", "embeddings of their own")
    only(judge(with_entry(facts, 3, {"id": "3"})), "note", "older version", "encodes them once")
    only(judge(with_entry(facts, 3, None)), "warning", "written by another program")


def test_a_collection_that_names_no_model(facts: Facts) -> None:
    bare = changed(facts, config__metadata={})
    only(judge(bare), "note", "does not say which model", "--model")


def test_a_tenant_key_that_is_not_indexed_as_one(tmp_path: Path, encoder: M3Encoder) -> None:
    with M3Store(tmp_path, "docs", encoder, M3Schema(tenant="whose")) as store:
        store.add([{"id": "a", "text": "x", "whose": "me"}])
        assert serious(judge(facts_of(store.client))) == []
        store.client.delete_payload_index("docs", "whose")
        only(judge(facts_of(store.client)), "error", "'whose' is not indexed as one")
        store.client.create_payload_index("docs", "whose", models.PayloadSchemaType.KEYWORD)
        only(judge(facts_of(store.client)), "warning", "M3Schema(tenant='whose')")


def test_the_state_of_a_server(facts: Facts) -> None:
    server = replace(facts, capabilities=SERVER)
    red = changed(
        server,
        status=models.CollectionStatus.RED,
        optimizer_status=models.OptimizersStatusOneOf1(error="out of disk"),
    )
    only(judge(red), "error", "red: out of disk", "server's log")
    only(judge(changed(server, status=models.CollectionStatus.YELLOW)), "note", "building")
    only(judge(changed(server, status=models.CollectionStatus.GREY)), "note", "not built")


@pytest.mark.parametrize(
    ("nodes", "replicas", "agree", "severity", "words"),
    [
        (None, 1, 1, None, ""),
        (1, 1, 1, None, ""),
        (3, 1, 1, "warning", "replication_factor=2"),
        (3, 2, 2, None, ""),
        (3, 2, 1, "note", "write_consistency=2"),
        (2, 3, 2, "warning", "add nodes"),
    ],
)
def test_copies_in_a_cluster(
    facts: Facts, nodes: int | None, replicas: int, agree: int, severity: str | None, words: str
) -> None:
    server = changed(
        replace(facts, capabilities=SERVER, nodes=nodes),
        config__params__replication_factor=replicas,
        config__params__write_consistency_factor=agree,
    )
    found = judge(server)
    if severity is None:
        assert [finding.severity for finding in found] == ["ok"]
    else:
        only(found, severity, words)


def test_a_migration_that_was_cut_off(copy: Path) -> None:
    with QdrantEdge(copy) as client:
        client.update_collection("docs", metadata={MIGRATION: {"source": "/there", "next": "x"}})
    only(examine(copy), "error", "a migration from /there was cut off", "migrate again")


@pytest.mark.parametrize(
    ("url", "key", "warned"),
    [
        ("http://example.org:6333", "secret", True),
        ("http://127.0.0.1:6333", "secret", False),
        ("https://example.org", "secret", False),
        ("http://example.org", "", False),
    ],
)
def test_a_key_over_plain_http(url: str, key: str, warned: bool) -> None:
    from m3qdrant.upkeep.doctor import _key

    findings = list(_key(url, {"QDRANT_API_KEY": key}))
    assert bool(findings) == warned
    assert all("secret" not in str(finding) for finding in findings)


def test_every_collection_is_looked_at(copy: Path, encoder: M3Encoder) -> None:
    with M3Store(copy, "more", encoder, M3Schema(colbert_hnsw=True)):
        pass
    names = [finding.collection for finding in examine(copy) if finding.collection]
    assert sorted(set(names)) == ["docs", "more"]
    assert {finding.collection for finding in examine(copy, "docs")} == {None, "docs"}


def test_a_server_is_examined_over_the_wire(
    world: World, tmp_path: Path, encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RestServer(QdrantEdge(tmp_path / "server"), version="1.13.0", api_key="k3y") as server:
        only(world.examine(server.url), "error", "QDRANT_API_KEY")
        monkeypatch.setenv("QDRANT_API_KEY", "k3y")
        with M3Store(server.url, "docs", encoder) as store:
            store.add(ROWS)
        findings = world.examine(server.url)
        only(findings, "warning", "server 1.13.0 is too old for metadata", "upgrade it to 1.16")
        only(findings, "note", "year", "create_payload_index('docs', 'lang', 'keyword')")
        (told,) = [f for f in findings if "it is asked over REST (no gRPC port" in f.what]
        assert told.severity == "ok"
        assert "k3y" not in str(findings)
        server.script("GET", "/docs$", *[Status(403)])
        assert only(world.examine(server.url), "error").collection == "docs"


def alias(name: str, collection: str) -> models.CreateAliasOperation:
    made = models.CreateAlias(alias_name=name, collection_name=collection)
    return models.CreateAliasOperation(create_alias=made)


def test_an_alias_is_followed(copy: Path, world: World) -> None:
    engine = QdrantEdge(copy)
    engine.update_collection_aliases([alias("current", "docs")])
    engine.close()
    by_name = [f for f in world.examine(copy, "docs") if f.collection]
    findings = [f for f in world.examine(copy, "current") if f.collection]
    assert findings[0].what == "'current' is an alias of 'docs', which is looked at"
    assert [f.what for f in findings[1:]] == [f.what for f in by_name]
    assert any("hold what they held" in f.what for f in findings)
    only(world.examine(copy, "curent"), "error", "no collection 'curent'")
    (told,) = [f for f in world.examine(copy) if f.what.startswith("aliases")]
    assert told.what == "aliases: 'current' for 'docs'"


def test_an_alias_on_a_real_server(tmp_path: Path, encoder: M3Encoder) -> None:
    name, other = f"doctor-{uuid.uuid4().hex}", f"alias-{uuid.uuid4().hex}"
    with real_server(tmp_path) as url, M3Store(url, name, encoder) as store:
        store.add(ROWS)
        client: Any = store.client
        client.update_collection_aliases([alias(other, name)])
        with M3Store(url, other, encoder) as followed:
            assert followed.count() == len(ROWS)
        findings = examine(url, other)
        assert not [f for f in findings if f.severity == "error"]
        assert {f.collection for f in findings} == {None, name}
        client.delete_collection(name)


def test_a_look_changes_nothing(copy: Path, world: World) -> None:
    """Whatever was left there: names, bytes and dates are as they were."""
    (copy / ".making-1").mkdir()
    (copy / "docs" / ".collection.json-0").write_text("cut off")

    def survey() -> dict[str, tuple[int, bytes]]:
        return {
            str(path.relative_to(copy)): (
                path.stat().st_mtime_ns,
                path.read_bytes() if path.is_file() else b"",
            )
            for path in sorted(copy.rglob("*"))
        }

    before = survey()
    assert any(name.endswith("closed.json") for name in before)
    findings = world.examine(copy)
    assert survey() == before
    assert findings[-1].collection == "docs"
    assert not [found for found in findings if found.severity in ("error", "warning")]


def test_vectors_that_are_too_many_to_be_looked_at_are_named(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sum(space.bytes_on_disk(copy / "docs").values())
    monkeypatch.setattr("m3qdrant.edge.disk.copies.LIMIT", whole - 1)
    found = only(examine(copy), "note", "the lengths of its texts were not looked at")
    assert found.collection == "docs"
    assert any("12 points" in each.what for each in examine(copy))
    # beside its vectors, too, it is more than is copied
    monkeypatch.setattr("m3qdrant.edge.disk.copies.LIMIT", 1)
    found = only(examine(copy), "warning", "examine(client)")
    assert found.collection == "docs"
    with QdrantEdge(copy) as client:
        assert not serious(examine(client))
