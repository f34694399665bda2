"""The part of `QdrantEdge` that gives collections other names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions import common_types as types

from m3qdrant.edge.arguments import accept
from m3qdrant.edge.disk import aliases
from m3qdrant.edge.disk import directory as places
from m3qdrant.edge.refusals import invalid
from m3qdrant.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    InputError,
    M3QdrantError,
    UnsupportedError,
)

__all__ = ["Aliasing", "not_found"]


def not_found(name: str, root: Path) -> CollectionNotFoundError:
    """What to say where no collection has a name; in a server's words, and local mode's."""
    names = ", ".join(map(repr, places.collection_names(root))) or "none"
    return CollectionNotFoundError(
        f"Collection {name} not found. Not found: Collection `{name}` doesn't exist! {root} has "
        f"{names}"
    )


class Aliasing(QdrantBase):
    """An alias stands for its collection in every method but `delete_collection`, as on a server.

    All clients of a directory share its aliases.
    """

    path: Path
    read_only: bool

    def _check_usable(self) -> None:
        raise NotImplementedError  # QdrantEdge has it

    def update_collection_aliases(
        self,
        change_aliases_operations: Sequence[types.AliasOperations],
        timeout: int | None = None,
        **kwargs: Any,
    ) -> bool:
        """Create, rename and delete aliases: all that is listed, in this order, or nothing.

        Creating an alias that there is lets it stand for the other collection; deleting one that
        there isn't changes nothing.

        Raises:
            CollectionNotFoundError: a new alias is for a collection that doesn't exist.
            CollectionExistsError: a new name is a collection's.
            InputError: what is renamed is no alias.
        """
        accept("update_collection_aliases", kwargs, timeout=timeout)
        self._check_usable()
        if self.read_only:
            raise UnsupportedError(
                f"could not change aliases: {self.path} is opened for reading; open it without "
                "read_only"
            )
        if not change_aliases_operations:
            return True
        if not self.path.is_dir():  # nor is any collection there
            _changed({}, self.path, change_aliases_operations)
            return True
        with aliases.changing(self.path):
            table = _changed(self._aliases(), self.path, change_aliases_operations)
            aliases.write(self.path, table)
        return True

    def get_aliases(self, **kwargs: Any) -> models.CollectionsAliasesResponse:
        """All aliases, sorted, with the collections that they stand for."""
        accept("get_aliases", kwargs)
        self._check_usable()
        return _described(self._aliases())

    def get_collection_aliases(
        self, collection_name: str, **kwargs: Any
    ) -> models.CollectionsAliasesResponse:
        """The aliases of one collection, sorted; none where there is no such collection."""
        accept("get_collection_aliases", kwargs)
        self._check_usable()
        places.check_name(collection_name)
        table = self._aliases()
        return _described({a: name for a, name in table.items() if name == collection_name})

    def _aliases(self) -> dict[str, str]:
        """The aliases of collections that exist: a crash may leave one of a deleted collection."""
        table = aliases.read(self.path)
        return {a: name for a, name in table.items() if places.is_collection(self.path / name)}

    def _meant(self, name: str) -> str:
        """The collection's own name."""
        if (self.path / name).exists():
            return name
        return aliases.read(self.path).get(name, name)

    @contextlib.contextmanager
    def _taking(self, name: str) -> Iterator[None]:
        """Keep a name, which is about to become a collection's, from becoming an alias.

        Raises:
            InputError: it is one.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with aliases.changing(self.path):
            if name in self._aliases():
                raise invalid(
                    f"Can't create collection with name {name}. Alias with the same name already "
                    "exists: delete it first, or choose another name",
                    400,
                )
            yield

    def _drop_aliases(self, name: str) -> None:
        """Forget the aliases of a collection that is gone."""
        with aliases.changing(self.path):
            table = aliases.read(self.path)
            kept = {alias: other for alias, other in table.items() if other != name}
            if kept != table:
                aliases.write(self.path, kept)


def _changed(
    table: dict[str, str], root: Path, operations: Sequence[types.AliasOperations]
) -> dict[str, str]:
    table = dict(table)
    for operation in operations:
        if isinstance(operation, models.CreateAliasOperation):
            wanted = operation.create_alias
            if not places.is_collection(root / places.check_name(wanted.collection_name)):
                raise not_found(wanted.collection_name, root)
            _need_free(wanted.alias_name, root)
            table[wanted.alias_name] = wanted.collection_name
        elif isinstance(operation, models.RenameAliasOperation):
            names = operation.rename_alias
            _need_free(names.new_alias_name, root)
            if names.old_alias_name not in table:
                raise _no_alias(names.old_alias_name, table)
            table[names.new_alias_name] = table.pop(names.old_alias_name)
        elif isinstance(operation, models.DeleteAliasOperation):
            table.pop(operation.delete_alias.alias_name, None)
        else:
            raise InputError(
                f"{operation!r} is no change of an alias: pass models.CreateAliasOperation, "
                "RenameAliasOperation or DeleteAliasOperation"
            )
    return table


def _need_free(alias: str, root: Path) -> None:
    if places.is_collection(root / places.check_name(alias)):
        raise CollectionExistsError(
            f"Collection `{alias}` already exists! Choose another name for the alias"
        )


def _no_alias(name: str, table: dict[str, str]) -> M3QdrantError:
    names = ", ".join(map(repr, sorted(table))) or "none"
    return invalid(f"Alias {name} does not exist! There are {names}", 404)


def _described(table: dict[str, str]) -> models.CollectionsAliasesResponse:
    return models.CollectionsAliasesResponse(
        aliases=[
            models.AliasDescription(alias_name=alias, collection_name=name)
            for alias, name in sorted(table.items())
        ]
    )
