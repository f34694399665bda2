"""Whose certificates are trusted: one setting for REST and gRPC, which have one each."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass

from m3qdrant.errors import InputError

__all__ = ["Authorities"]

_SETTINGS = ("QDRANT_CA_FILE", "SSL_CERT_FILE")


@dataclass(frozen=True)
class Authorities:
    """The certificate authorities that a server's certificate may come from.

    Attributes:
        file: in PEM; None for those that httpx and gRPC bring along.
        named: what named the file, for messages.
    """

    file: str | None = None
    named: str = ""

    @classmethod
    def of(cls, ca_file: str | os.PathLike[str] | None) -> Authorities:
        """Those of a file, or of the environment, checked.

        Raises:
            InputError: there is no such file, or it holds no certificates.
        """
        file, named = None if ca_file is None else os.fspath(ca_file), "ca_file"
        if file is None:
            named = next((name for name in _SETTINGS if os.environ.get(name)), "")
            file = os.environ.get(named) if named else None
        found = cls(file, named)
        found.context()
        return found

    def context(self) -> ssl.SSLContext | None:
        """For Python's own TLS, httpx's among it; None where its own authorities serve."""
        if self.file is None:
            return None
        try:
            return ssl.create_default_context(cafile=self.file)
        except OSError as error:  # ssl.SSLError is one
            raise InputError(
                f"{self.named} is {self.file!r}: no certificates can be read from it ({error}): "
                "give a PEM file of certificate authorities"
            ) from error

    def pem(self) -> bytes | None:
        """For gRPC; None where its own authorities serve."""
        if self.file is None:
            return None
        with open(self.file, "rb") as file:
            return file.read()
