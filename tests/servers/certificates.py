"""A certificate authority of one's own, and a certificate for this machine, made by openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

__all__ = ["Certificates", "make"]


class Certificates(NamedTuple):
    """Files in PEM.

    Attributes:
        authority: the authority's own certificate.
        certificate: a server's, for 127.0.0.1 and localhost.
        key: the server's.
    """

    authority: Path
    certificate: Path
    key: Path


def make(directory: Path) -> Certificates:
    """Make all of them; the test is skipped where there is no openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl, which makes the certificates")
    out = Certificates(
        *(directory / name for name in ("authority.pem", "certificate.pem", "key.pem"))
    )
    authority_key, request = directory / "authority-key.pem", directory / "request.pem"
    extensions = directory / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for arguments in (
        ["req", "-x509", *new, "-keyout", authority_key, "-out", out.authority, "-days", "2",
         "-subj", "/CN=an authority of the tests"],
        ["req", *new, "-keyout", out.key, "-out", request, "-subj", "/CN=localhost"],
        ["x509", "-req", "-in", request, "-CA", out.authority, "-CAkey", authority_key,
         "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", out.certificate],
    ):  # fmt: skip
        subprocess.run([openssl, *map(str, arguments)], check=True, capture_output=True)
    return out
