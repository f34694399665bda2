"""A model hub of one's own: serves checkpoint directories on 127.0.0.1 as the real one would.

    with Hub() as hub:
        hub.add("acme/m3", directory)
        answers = hub.load(["acme/m3"], cache=tmp_path)
        hub.fetched("acme/m3")  # the files whose content was sent

`huggingface_hub` reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE once, when it is imported, so
`Hub.load` loads checkpoints in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

__all__ = ["Answer", "Hub", "Wanted", "load"]

Wanted: TypeAlias = str | tuple[str, str]
"""A hub id, or one and its revision."""

# Loads each checkpoint, and prints what came of it as one line of JSON.
_LOADER = """
import json, sys
import torch
from m3qdrant.encode import M3Encoder, locate_checkpoint
from m3qdrant.errors import M3QdrantError

for name, revision in json.loads(sys.argv[1]):
    answer = {}
    try:
        encoder = M3Encoder.from_pretrained(name, revision=revision, dtype=torch.float32)
        answer["fingerprint"] = encoder.fingerprint
        answer["files"] = sorted(path.name for path in locate_checkpoint(name, revision).iterdir())
    except BaseException as error:
        answer["error"] = type(error).__name__
        answer["message"] = str(error)
        answer["ours"] = isinstance(error, M3QdrantError)
        answer["cause"] = type(error.__cause__).__name__
    print("ANSWER" + json.dumps(answer), flush=True)
"""


@dataclass(frozen=True)
class Answer:
    """What came of one `M3Encoder.from_pretrained`.

    Attributes:
        fingerprint: the encoder's, where it was loaded.
        files: the names in the checkpoint's directory in the cache.
        error: the class of what was raised, else None.
        ours: whether that is one of m3qdrant's errors.
        message: what it says.
        cause: the class of its cause.
    """

    fingerprint: str | None = None
    files: tuple[str, ...] = ()
    error: str | None = None
    ours: bool = False
    message: str = ""
    cause: str | None = None


def load(names: Sequence[Wanted], cache: Path, endpoint: str, **environment: str) -> list[Answer]:
    """Load each checkpoint, a hub id or (id, revision), one after another in a fresh process."""
    dropped = re.compile(r"HF_.*|HUGGING_?FACE_.*|.*_PROXY", re.IGNORECASE)
    inherited = {key: value for key, value in os.environ.items() if not dropped.fullmatch(key)}
    calls = [(name, None) if isinstance(name, str) else name for name in names]
    done = subprocess.run(
        [sys.executable, "-c", _LOADER, json.dumps(calls)],
        env={
            **inherited,
            "OMP_NUM_THREADS": "1",
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("ANSWER")]
    assert done.returncode == 0, done.stderr
    assert len(lines) == len(calls), done.stderr
    answers = [json.loads(line.removeprefix("ANSWER")) for line in lines]
    return [Answer(**{**answer, "files": tuple(answer.get("files", ()))}) for answer in answers]


@dataclass(frozen=True)
class _Refusal:
    status: HTTPStatus | None  # None: hang up without a word
    code: str
    where: str


@dataclass
class _Repo:
    revisions: dict[str, Path] = field(default_factory=dict)
    refusal: _Refusal | None = None

    def revision(self, name: str) -> tuple[str, Path] | None:
        """(commit, directory) of a branch, a tag or a commit."""
        for branch, directory in self.revisions.items():
            commit = hashlib.sha1(f"{directory}@{branch}".encode()).hexdigest()
            if name in (branch, commit):
                return commit, directory
        return None


class Hub:
    """The server. Use it as a context manager; it runs in a thread until the end of the block.

    Attributes:
        url: the value for HF_ENDPOINT.
        requests: (method, path) of every request that came, in order.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self._repos: dict[str, _Repo] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, repo: str, directory: Path, revision: str = "main") -> None:
        """Serve the files under `directory` as a revision of `repo`."""
        self._repos.setdefault(repo, _Repo()).revisions[revision] = directory

    def refuse(
        self, repo: str, status: HTTPStatus | None, code: str = "", where: str = "/"
    ) -> None:
        """Answer what is asked of `repo`, under paths that hold `where`, with nothing but this.

        Args:
            repo: it needs no files.
            status: of an empty answer; None hangs up instead.
            code: the answer's X-Error-Code.
            where: "/api/" for what the hub knows of the repository, "/resolve/" for its files.
        """
        self._repos.setdefault(repo, _Repo()).refusal = _Refusal(status, code, where)

    def load(self, names: Sequence[Wanted], cache: Path, **environment: str) -> list[Answer]:
        """`load` from this hub."""
        return load(names, cache, self.url, **environment)

    def fetched(self, repo: str) -> list[str]:
        """The files of `repo` whose content was asked for, sorted, each as often as it was."""
        pattern = re.compile(f"/{re.escape(repo)}/resolve/[^/]+/(.+)")
        return sorted(
            found[1]
            for method, path in self.requests
            if method == "GET" and (found := pattern.fullmatch(path))
        )

    def asked_about(self, repo: str) -> list[str]:
        """The paths of all requests that concern `repo`."""
        return [path for _, path in self.requests if f"/{repo}/" in f"{path}/"]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self)

            def do_HEAD(self) -> None:
                hub._answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Keep the tests' output clean."""

        return Handler

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        self.requests.append((request.command, path))
        api = re.fullmatch(r"/api/models/(.+?)(?:/(revision|tree)/([^/]+)/?)?", path)
        file = re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path)
        if file:
            name, revision, what = file[1], file[2], file[3]
        elif api:
            name, revision, what = api[1], api[3] or "main", api[2] or "revision"
        else:
            return _send(request, HTTPStatus.NOT_FOUND)
        repo = self._repos.get(name)
        if repo is None:  # the real hub won't tell a stranger whether a repository exists
            return _send(request, HTTPStatus.UNAUTHORIZED, {"X-Error-Code": "RepoNotFound"})
        if (refusal := repo.refusal) and refusal.where in path:
            if refusal.status is None:
                request.close_connection = True
                return None
            return _send(request, refusal.status, {"X-Error-Code": refusal.code})
        if (found := repo.revision(revision)) is None:
            return _send(request, HTTPStatus.NOT_FOUND, {"X-Error-Code": "RevisionNotFound"})
        commit, directory = found
        if not file:
            body = _tree(directory) if what == "tree" else _info(name, commit, directory)
            headers = {"Content-Type": "application/json"}
            return _send(request, HTTPStatus.OK, headers, json.dumps(body).encode())
        source = directory / what
        if not source.is_file():
            return _send(request, HTTPStatus.NOT_FOUND, {"X-Error-Code": "EntryNotFound"})
        content = source.read_bytes()
        headers = {"ETag": f'"{_blob_id(content)}"', "X-Repo-Commit": commit}
        return _send(request, HTTPStatus.OK, headers, content)


def _send(
    request: BaseHTTPRequestHandler,
    status: HTTPStatus,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
) -> None:
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def _files(directory: Path) -> list[tuple[str, bytes]]:
    return [
        (path.relative_to(directory).as_posix(), path.read_bytes())
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    ]


def _info(name: str, commit: str, directory: Path) -> dict[str, Any]:
    return {
        "_id": "0",
        "id": name,
        "modelId": name,
        "sha": commit,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [{"rfilename": path} for path, _ in _files(directory)],
    }


def _tree(directory: Path) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": path, "size": len(content), "oid": _blob_id(content)}
        for path, content in _files(directory)
    ]


def _blob_id(content: bytes) -> str:
    """Git's name for a file's content."""
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
