"""A cluster's shards: on which nodes they are, in which state, and how many points each holds.

A node says how many points it holds itself, and of the other nodes' replicas only the state; where
the location names all nodes, each is asked for its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from m3qdrant.collection import calls
from m3qdrant.errors import M3QdrantError
from m3qdrant.upkeep.findings import Finding
from m3qdrant.upkeep.sides import Directed, Side

__all__ = ["Replica", "judge_replicas", "shards"]

_ACTIVE = "Active"


class Replica(NamedTuple):
    """A shard's copy on one node.

    Attributes:
        node: the node, in words.
        states: what the nodes that were asked say of its state; one where they agree.
        points: how many it holds; None where its node was not asked.
    """

    node: str
    states: tuple[str, ...]
    points: int | None


def shards(nodes: Sequence[Side], name: str) -> Directed[list[Finding]]:
    """What there is to say of a collection's shards; nothing where there is but one node.

    Args:
        nodes: those that are asked.
        name: the collection's.
    """
    names: dict[str, str] = {}
    states: dict[int, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    points: dict[tuple[int, str], int] = {}
    moving = wanted = 0
    for node in nodes:
        try:
            status: Any = yield from node.ask(calls.cluster_status())
            info = yield from node.ask(calls.collection_cluster_info(name))
            params = (yield from node.ask(calls.get_collection(name))).config.params
        except M3QdrantError:  # a key for one collection only may not ask
            continue
        names |= {
            peer: known.uri for peer, known in (getattr(status, "peers", None) or {}).items()
        }
        moving = max(moving, len(info.shard_transfers))
        wanted = max(wanted, params.replication_factor or 1)
        own = str(info.peer_id)
        for local in info.local_shards:
            states[local.shard_id][own].add(local.state.value)
            points[local.shard_id, own] = local.points_count
        for remote in info.remote_shards:
            states[remote.shard_id][str(remote.peer_id)].add(remote.state.value)
    if len(names) < 2:
        return []
    replicas = {
        shard: [
            Replica(names.get(peer, peer), tuple(sorted(said)), points.get((shard, peer)))
            for peer, said in sorted(peers.items())
        ]
        for shard, peers in sorted(states.items())
    }
    return [
        Finding(finding.severity, finding.what, finding.remedy, name)
        for finding in judge_replicas(replicas, wanted, moving)
    ]


def judge_replicas(
    replicas: Mapping[int, Sequence[Replica]], wanted: int, moving: int
) -> list[Finding]:
    """What is wrong with a cluster's shards, or that nothing is. Pure.

    Args:
        replicas: each shard's.
        wanted: the collection's replication factor.
        moving: how many transfers are under way.
    """
    found = []
    for shard, copies in replicas.items():
        for copy in copies:
            if copy.states != (_ACTIVE,):
                found.append(
                    Finding(
                        "warning" if any(c.states == (_ACTIVE,) for c in copies) else "error",
                        f"shard {shard} is {' or '.join(copy.states)} on {copy.node}",
                        "start that node where it is down: it is filled again by the others",
                    )
                )
        counts = {copy.points for copy in copies if copy.points is not None}
        if len(counts) > 1:
            held = ", ".join(
                f"{copy.points:,} on {copy.node}" for copy in copies if copy.points is not None
            )
            found.append(
                Finding(
                    "warning",
                    f"the replicas of shard {shard} hold different numbers of points: {held}",
                    "look again when no writes and no transfers are under way; where it stays, "
                    "replicate the shard from the replica that has them",
                )
            )
        if len(copies) < wanted:
            found.append(
                Finding(
                    "warning",
                    f"shard {shard} has {len(copies)} of {wanted} replicas",
                    "replicate it to another node (Qdrant's replicate_shard)",
                )
            )
    if moving:
        found.append(Finding("note", f"{moving} shards are being transferred between nodes"))
    if not found:
        known = [
            max((c.points for c in copies if c.points is not None), default=None)
            for copies in replicas.values()
        ]
        held = ", ".join("unknown" if count is None else f"{count:,}" for count in known)
        unseen = sum(copy.points is None for copies in replicas.values() for copy in copies)
        rest = f"; {unseen} replicas were not counted: name all nodes' URLs" if unseen else ""
        most = max((len(copies) for copies in replicas.values()), default=0)
        found.append(
            Finding(
                "ok",
                f"{len(replicas)} shards, {most} replicas each, all active; points a shard: "
                f"{held}{rest}",
            )
        )
    return found
