"""A Hugging Face hub on a real socket of this machine: the paths that huggingface_hub asks for.

Large files are redirected to another host name (the content network of the hub), so that a test
sees whom a token is shown to. It misbehaves when told to.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

LARGE_BYTES = 4096  # files from here on are in large file storage


@dataclass
class Asked:
    """A request the hub got."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    host: str


@dataclass
class Repo:
    """A repository. files: by name; commit: of main, and of the revisions that are listed. refused:
    (status, X-Error-Code) for everything about it. needs_token: answers 401 without it.
    is_gated: what it is made of is told, its files are not."""

    files: dict[str, bytes]
    commit: str = "c" * 40
    revisions: dict[str, str] = field(default_factory=dict)
    refused: tuple[int, str] | None = None
    needs_token: str = ""
    is_gated: bool = False


@dataclass
class Hub:
    """cut_at: the next body is cut after so many bytes, once. stops_at: bodies stop there, and the
    connection stays open until `released`. flips: bodies arrive with one byte changed.
    says: instead of what a repository is made of. tells: `all` of a file, `no checksums`, or only
    `names`."""

    repos: dict[str, Repo] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    cut_at: int | None = None
    stops_at: int | None = None
    flips: bool = False
    says: bytes = b""
    tells: str = "all"
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    port: int = 0

    def ranges(self) -> list[str | None]:
        """The ranges asked of large files."""
        return [one.range for one in self.asked if one.path.startswith("/large/")]

    def fetched(self) -> set[str]:
        """The names of files of which something was fetched."""
        pattern = re.compile(r"/resolve/[^/]+/(.+)")
        found = (pattern.search(one.path) for one in self.asked if one.method == "GET")
        return {unquote(match[1]) for match in found if match}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up early is no error here."""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """`hub` on a free port of this machine; its url is set."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = Server(("127.0.0.1", 0), Handler)
    hub.port = server.server_port
    hub.url = f"http://127.0.0.1:{hub.port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def _answer(self) -> None:
        headers = self.headers
        asked = Asked(
            self.command, self.path.partition("?")[0], headers["Range"], headers["Authorization"],
            headers["Host"] or "",
        )  # fmt: skip
        self.hub.asked.append(asked)
        path = asked.path
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._about(found[1], unquote(found[2] or "main"))
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found[1], unquote(found[2]), unquote(found[3]))
        elif found := re.fullmatch(r"/large/([0-9a-f]{64})", path):
            self._body(self._large(found[1]), {"ETag": f'"{found[1]}"'})
        else:
            self._refuse(404, "")

    def _about(self, name: str, revision: str) -> None:
        found = self._repo(name, revision)
        if found is not None:
            repo, commit = found
            siblings = [_sibling(*item, self.hub.tells) for item in repo.files.items()]
            told = {"id": name, "modelId": name, "sha": commit, "siblings": siblings}
            self._body(
                self.hub.says or json.dumps(told).encode(), {"Content-Type": "application/json"}
            )

    def _resolve(self, name: str, revision: str, file: str) -> None:
        found = self._repo(name, revision)
        if found is None:
            return
        repo, commit = found
        if repo.is_gated:
            self._refuse(403, "GatedRepo")
            return
        data = repo.files.get(file)
        if data is None:
            self._refuse(404, "EntryNotFound")
            return
        digest = digest_of(data)
        if self.hub.tells != "all":
            self._body(data, {"X-Repo-Commit": commit, "ETag": f'"{zlib.crc32(data):x}-mirror"'})
            return
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest}"'}
        if len(data) < LARGE_BYTES:
            self._body(data, headers)
            return
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        headers["Location"] = f"http://localhost:{self.hub.port}/large/{digest}"
        self._head(302, headers | {"Content-Length": "0"})

    def _repo(self, name: str, revision: str) -> tuple[Repo, str] | None:
        """The repository and the commit of the revision; None after an answer that refuses."""
        repo = self.hub.repos.get(name)
        if repo is None:
            self._refuse(401 if not self.headers["Authorization"] else 404, "RepoNotFound")
            return None
        if repo.refused:
            self._refuse(*repo.refused)
            return None
        if repo.needs_token and self.headers["Authorization"] != f"Bearer {repo.needs_token}":
            self._refuse(401, "")
            return None
        commits = {"main": repo.commit, repo.commit: repo.commit} | repo.revisions
        commits |= {commit: commit for commit in repo.revisions.values()}
        if revision not in commits:
            self._refuse(404, "RevisionNotFound")
            return None
        return repo, commits[revision]

    def _large(self, digest: str) -> bytes:
        everything = (data for repo in self.hub.repos.values() for data in repo.files.values())
        return next(data for data in everything if digest_of(data) == digest)

    def _refuse(self, status: int, code: str) -> None:
        headers = {"X-Error-Code": code} if code else {}
        self._head(status, headers | {"Content-Length": "0"})

    def _body(self, data: bytes, headers: dict[str, str]) -> None:
        """`data`, or the range of it that was asked for, as the hub is told to send it."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        start = int(asked[1]) if asked else 0
        end = int(asked[2]) + 1 if asked and asked[2] else len(data)
        if asked:
            headers = headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
        piece = data[start:end]
        self._head(206 if asked else 200, headers | {"Content-Length": str(len(piece))})
        if self.command == "HEAD":
            return
        if self.hub.flips and not self.path.startswith("/api/"):
            piece = bytes([piece[0] ^ 1]) + piece[1:]
        if len(data) < LARGE_BYTES:
            self.wfile.write(piece)
        elif self.hub.cut_at is not None:
            stop, self.hub.cut_at = self.hub.cut_at, None
            self.wfile.write(piece[:stop])
            self.close_connection = True
        elif self.hub.stops_at is not None:
            self.wfile.write(piece[: self.hub.stops_at])
            self.wfile.flush()
            self.hub.released.wait()
            self.close_connection = True
        else:
            self.wfile.write(piece)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def digest_of(data: bytes) -> str:
    """What the hub calls a content: SHA-256 of large files, git's SHA-1 of others."""
    if len(data) >= LARGE_BYTES:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sibling(name: str, data: bytes, tells: str) -> dict[str, object]:
    if tells != "all":
        return {"rfilename": name} | ({"size": len(data)} if tells == "no checksums" else {})
    told: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": "0" * 40}
    if len(data) < LARGE_BYTES:
        return told | {"blobId": digest_of(data)}
    return told | {"lfs": {"size": len(data), "sha256": digest_of(data), "pointerSize": 134}}
