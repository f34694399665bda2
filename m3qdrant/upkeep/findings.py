"""What a collection's facts say of its health: rules, each giving findings with a remedy. Pure."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

from qdrant_client import models

from m3qdrant.collection import OPTIMIZE_POINTS, Capabilities, Layout, Provenance, StrictMode
from m3qdrant.limits import most_tokens
from m3qdrant.names import MIGRATION, OURS, TEXT
from m3qdrant.upkeep.damage import Damage, Named

__all__ = ["Facts", "Finding", "Severity", "field_kinds", "judge"]

Severity: TypeAlias = Literal["error", "warning", "note", "ok"]


@dataclass(frozen=True)
class Finding:
    """Something to know.

    Attributes:
        severity: "error" (it doesn't work, or gives wrong results), "warning" (it is slow or
            risky), "note" (worth knowing) or "ok".
        what: what was found.
        remedy: what to do; None where there is nothing to do.
        collection: whose it is; None for the location's own.
    """

    severity: Severity
    what: str
    remedy: str | None = None
    collection: str | None = None


@dataclass(frozen=True)
class Facts:
    """What Qdrant says of one collection.

    Attributes:
        name: the collection's.
        capabilities: what can be asked of the engine.
        info: its configuration and state.
        points: how many it holds.
        sample: some points with payload, without vectors.
        long_sample: some points with multivectors only; empty where there are none.
        unseen: why the multivectors weren't looked at; empty where they were.
        unindexed: where the engine builds its indexes when told to, points that a dense search
            reads one by one.
        nodes: of a cluster, how many nodes it has; None elsewhere.
        damage: what reading its points showed; None where they weren't read.
    """

    name: str
    capabilities: Capabilities
    info: models.CollectionInfo
    points: int
    sample: Sequence[models.Record]
    long_sample: Sequence[models.Record] = ()
    unseen: str = ""
    unindexed: int = 0
    nodes: int | None = None
    damage: Damage | None = None
    layout: Layout | list[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", Layout.read(self.info))

    @property
    def vectors(self) -> Mapping[str, models.VectorParams]:
        """The dense vectors and multivectors by name; "" is an unnamed one."""
        vectors = self.info.config.params.vectors
        return {"": vectors} if isinstance(vectors, models.VectorParams) else vectors or {}

    @property
    def multivectors(self) -> dict[str, models.VectorParams]:
        """The multivectors by name."""
        return {n: v for n, v in self.vectors.items() if v.multivector_config is not None}


_MANY = 10_000
"""Points from which on a filter by a field without an index is slow."""
_LONGEST_KEYWORD = 256  # characters


def judge(facts: Facts) -> list[Finding]:
    """Every rule's findings, or one that there are none."""
    found = [
        Finding(finding.severity, finding.what, finding.remedy, facts.name)
        for rule in _RULES
        for finding in rule(facts)
    ]
    worst = {finding.severity for finding in found}
    if not worst & {"error", "warning"}:
        found.insert(0, Finding("ok", f"{facts.points:,} points", None, facts.name))
    return found


def _layout(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.layout, list):
        yield Finding(
            "warning",
            f"another program made this collection: {'; '.join(facts.layout)}",
            "M3Store can't open it; ingest the texts into a collection of its own",
        )


def _health(facts: Facts) -> Iterator[Finding]:
    info = facts.info
    status = info.status
    fault = getattr(info.optimizer_status, "error", None)
    if status is models.CollectionStatus.RED or fault:
        yield Finding(
            "error",
            f"its status is {status.value}" + (f": {fault}" if fault else ""),
            "look at the server's log, for space and memory first; then restart it",
        )
    elif status is models.CollectionStatus.YELLOW:
        yield Finding("note", "the server is building its indexes: searches are slower until then")
    elif status is models.CollectionStatus.GREY:
        yield Finding(
            "note",
            "the server has not built its indexes since it started",
            "any write sets it going, such as an update_collection with optimizers_config={}",
        )
    for warning in getattr(info, "warnings", None) or ():
        yield Finding("warning", warning.message)


def _unindexed(facts: Facts) -> Iterator[Finding]:
    if facts.capabilities.optimizes and facts.unindexed >= OPTIMIZE_POINTS:
        yield Finding(
            "warning",
            f"{facts.unindexed:,} of {facts.points:,} points are in no index and are read one by "
            "one in each dense search",
            "m3qdrant optimize, or M3Store.optimize()",
        )


def _graph(facts: Facts) -> Iterator[Finding]:
    """HNSW over multivectors."""
    general = facts.info.config.hnsw_config
    for name, vector in facts.multivectors.items():
        own = vector.hnsw_config
        m = own.m if own is not None and own.m is not None else general.m
        if m == 0 or not facts.capabilities.indexes:
            continue
        remedy = (
            "ingest into a new collection with colbert_hnsw=False, the default"
            if not facts.capabilities.alters
            else f"client.update_collection({facts.name!r}, vectors_config={{{name!r}: "
            "models.VectorParamsDiff(hnsw_config=models.HnswConfigDiff(m=0))})"
        )
        yield Finding(
            "warning",
            f"multivector {name!r} has an HNSW graph (m = {m}), which takes minutes to build "
            "where the rest takes seconds, and which ranking candidates again does not need",
            remedy,
        )


def _lengths(facts: Facts) -> Iterator[Finding]:
    """Multivectors at, or over, what a server takes."""
    for name, vector in facts.multivectors.items():
        most = most_tokens(vector.size)
        lengths = [
            len(tokens)
            for record in facts.long_sample
            if (tokens := _named(record.vector, name)) is not None
        ]
        over = sum(length > most for length in lengths)
        at = sum(length == most for length in lengths)
        if over:
            yield Finding(
                "error",
                f"{over} of {len(lengths)} sampled points have more than {most:,} vectors in "
                f"{name!r}: no server takes them, so the collection can't move",
                "ingest those documents again: long ones are merged to fit",
            )
        if at:
            yield Finding(
                "note",
                f"{at} of {len(lengths)} sampled points have {most:,} vectors in {name!r}, the "
                "most that Qdrant takes: their texts were longer",
                "split long texts into passages; ColBERT scores get finer",
            )


def _unseen(facts: Facts) -> Iterator[Finding]:
    if facts.unseen:
        yield Finding(
            "note",
            f"its vectors and the lengths of its texts were not looked at: {facts.unseen}",
            "for a look at all of it, open the client yourself: examine(client)",
        )


def _named(vectors: Any, name: str) -> Any:
    return vectors.get(name) if isinstance(vectors, Mapping) else vectors


def _models(facts: Facts) -> Iterator[Finding]:
    """Where the points' vectors come from."""
    if isinstance(facts.layout, list) or not facts.sample:
        return
    model, total = facts.layout.model, len(facts.sample)
    if model is None:
        yield Finding(
            "note",
            "the collection does not say which model its vectors come from",
            "name it when you search (--model); a new collection made with an encoder says it",
        )
    entries = [(record.payload or {}).get(OURS) for record in facts.sample]
    foreign = sum(not isinstance(entry, Mapping) for entry in entries)
    known = [found for r in facts.sample if (found := Provenance.read(r.payload)) is not None]
    older = total - foreign - len(known)
    others = sum(
        model is not None
        and found.model is not None
        and found.model not in (model.fingerprint, model.former)
        for found in known
    )
    brought = sum(found.model is None for found in known)
    if others:
        yield Finding(
            "error",
            f"{others} of {total} sampled points were encoded by another model than "
            f"{model.name if model else ''}: their scores mean nothing beside the others'",
            "ingest those documents again: what another model encoded is encoded anew",
        )
    if foreign:
        yield Finding(
            "warning",
            f"{foreign} of {total} sampled points were written by another program",
            "they are found under their point ids; check that the same model encoded them",
        )
    if older:
        yield Finding(
            "note",
            f"{older} of {total} sampled points don't say what they were made from (an older "
            "version wrote them)",
            "none needed: the next ingest of their documents encodes them once more",
        )
    if brought and model is not None:
        yield Finding(
            "note",
            f"{brought} of {total} sampled points came with embeddings of their own, and are "
            "written again by each ingest",
        )


def _strict(facts: Facts) -> Iterator[Finding]:
    """What a server's operator allows; we keep to it, but programs beside us may not."""
    if said := str(StrictMode.of(facts.info)):
        yield Finding("note", f"it is in strict mode: {said}")


def _fields(facts: Facts) -> Iterator[Finding]:
    """Payload fields without an index, which a filter would have to read point by point."""
    if not facts.capabilities.indexes:
        return
    indexed = facts.info.payload_schema or {}
    missing = {
        path: kind
        for path, kind in field_kinds(record.payload or {} for record in facts.sample).items()
        if path not in indexed
    }
    if not missing:
        return
    kinds = json.dumps({"payload_indexes": missing}, ensure_ascii=False)
    first, kind = next(iter(missing.items()))
    yield Finding(
        "warning" if facts.points >= _MANY else "note",
        f"payload fields without an index: {', '.join(missing)}; a filter on one of them looks at "
        f"each of {facts.points:,} payloads",
        f"for those that you filter by, m3qdrant index '{first}={kind}' ..., --schema '{kinds}' "
        f"with the next m3qdrant ingest, or client.create_payload_index({facts.name!r}, "
        f"{first!r}, {kind!r})",
    )


def field_kinds(payloads: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The fields that filters may use, and the kind of index for each, a key of M3Schema's.

    Fields within lists of objects have paths like "tags[].name". Left out: this package's own
    keys, long texts, and fields whose values are of several kinds, which no one index serves.
    """
    values: dict[str, list[Any]] = {}
    for payload in payloads:
        for key, value in payload.items():
            if key not in (TEXT, OURS):
                _collect(key, value, values)
    kinds = {path: _kind(found) for path, found in sorted(values.items())}
    return {path: kind for path, kind in kinds.items() if kind is not None}


def _collect(path: str, value: Any, values: dict[str, list[Any]]) -> None:
    if isinstance(value, Mapping) and set(value) != {"lat", "lon"}:
        for key, inner in value.items():
            _collect(f"{path}.{key}", inner, values)
    elif isinstance(value, list):
        for inner in value:
            _collect(f"{path}[]" if _is_object(inner) else path, inner, values)
    elif value is not None:
        values.setdefault(path, []).append(value)


def _is_object(value: object) -> bool:
    return isinstance(value, Mapping) and set(value) != {"lat", "lon"}


def _kind(values: Sequence[Any]) -> str | None:
    if all(isinstance(value, bool) for value in values):
        return "bool"
    if any(isinstance(value, bool) for value in values):
        return None
    if all(isinstance(value, int) for value in values):
        return "integer"
    if all(isinstance(value, int | float) for value in values):
        return "float"
    if all(isinstance(value, Mapping) for value in values):
        return "geo"
    if not all(isinstance(value, str) for value in values):
        return None
    for kind, reads in (("uuid", uuid.UUID), ("datetime", _datetime)):
        if all(_reads(reads, value) for value in values):
            return kind
    return "keyword" if max(map(len, values)) <= _LONGEST_KEYWORD else None


def _datetime(text: str) -> datetime:
    if re.match(r"\d{4}-\d\d-\d\d", text) is None:  # "20200101" is rather a number
        raise ValueError(text)
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _reads(read: Callable[[str], object], text: str) -> bool:
    try:
        read(text)
    except ValueError:
        return False
    return True


def _tenant(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.layout, list) or facts.layout.schema.tenant is None:
        return
    tenant = facts.layout.schema.tenant
    index = (facts.info.payload_schema or {}).get(tenant)
    is_one = getattr(index and index.params, "is_tenant", None) is True
    if facts.capabilities.indexes and not is_one:
        yield Finding(
            "error" if index is None else "warning",
            f"the tenant key {tenant!r} is not indexed as one: each search reads all tenants'",
            f"open it with M3Store(..., schema=M3Schema(tenant={tenant!r})), which makes it one",
        )


def _copies(facts: Facts) -> Iterator[Finding]:
    if not facts.capabilities.remote or facts.nodes is None or facts.nodes < 2:
        return
    params = facts.info.config.params
    replicas, agree = params.replication_factor or 1, params.write_consistency_factor or 1
    if replicas == 1:
        yield Finding(
            "warning",
            f"each shard is on one of {facts.nodes} nodes only: with it, its points are gone",
            f"client.update_collection({facts.name!r}, collection_params="
            "models.CollectionParamsDiff(replication_factor=2)), then replicate the shards",
        )
    elif replicas > facts.nodes:
        yield Finding(
            "warning",
            f"{replicas} copies of each shard are wanted, but there are {facts.nodes} nodes",
            "add nodes, or lower replication_factor",
        )
    if replicas > 1 and agree == 1:
        yield Finding(
            "note",
            f"a write counts when one of {replicas} copies has it",
            "write_consistency=2 in M3Schema waits for two, and is refused while one node is down",
        )


def _migration(facts: Facts) -> Iterator[Finding]:
    cursor = (facts.info.config.metadata or {}).get(MIGRATION)
    if isinstance(cursor, Mapping):
        yield Finding(
            "error",
            f"a migration from {cursor.get('source')} was cut off: points are missing",
            "run the same m3qdrant migrate again; it goes on from there",
        )


def _damage(facts: Facts) -> Iterator[Finding]:
    """Points that hold what no ingest can have written."""
    damage = facts.damage
    if damage is None:
        return
    if damage.damaged.count:
        yield Finding(
            "error",
            f"{damage.damaged.count:,} of {damage.read:,} points that were read are damaged: "
            f"{_shown(damage.damaged)}",
            "restore the collection from a snapshot, or delete these documents and ingest them "
            "again; look at the disk",
        )
    if damage.texts.count:
        yield Finding(
            "warning",
            f"{damage.texts.count:,} of {damage.read:,} points that were read have another text "
            f"than their vectors were made of: {_shown(damage.texts)}",
            "ingest these documents again; if no program of yours changed their texts, look at "
            "the disk",
        )
    if damage.payloads.count:
        yield Finding(
            "note",
            f"{damage.payloads.count:,} of {damage.read:,} points that were read have another "
            f"payload than was ingested: {_shown(damage.payloads)}",
            "none needed where a program of yours changed it; if none did, look at the disk",
        )


def _shown(named: Named) -> str:
    rest = named.count - len(named.shown)
    shown = "; ".join(f"{id!r}: {word}" if word else repr(id) for id, word in named.shown)
    return shown + (f"; and {rest:,} more" if rest else "")


_RULES: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _migration,
    _damage,
    _layout,
    _health,
    _models,
    _unindexed,
    _graph,
    _lengths,
    _unseen,
    _tenant,
    _copies,
    _strict,
    _fields,
)
