"""A model that is not here is planned from its header alone, over HTTP ranges."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from okno.advisor.planning import make_plan
from okno.advisor.request import Words, plan_request
from okno.inspect.hardware.overrides import Overrides
from okno.plan.search import fits
from okno.store.database import Database
from tests.advisor.test_planning import machine


class Ranges(SimpleHTTPRequestHandler):
    """Serves byte ranges of files, and counts what it sends."""

    sent_bytes = 0

    def do_GET(self) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1 if last else len(data)]
        type(self).sent_bytes += len(part)
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        end = int(first) + len(part) - 1
        self.send_header("Content-Range", f"bytes {first}-{end}/{len(data)}")
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def address(make_model) -> Iterator[str]:
    path = make_model("tiny", "Q4_0")
    handler = partial(Ranges, directory=str(path.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/{path.name}"
        server.shutdown()


def test_a_file_on_a_server_is_planned_like_the_same_file_here(address, make_model, tmp_path):
    def pick(model: str):
        request = plan_request(Words(model=model), overrides=Overrides())
        return make_plan(request, machine=machine(), database=Database(tmp_path / "okno.db"))

    remote, local = pick(address), pick(str(make_model("tiny", "Q4_0")))
    assert remote.subject.file_bytes == local.subject.file_bytes
    assert remote.plan.pick.load == local.plan.pick.load
    assert remote.plan.pick.memory.source == "closed form"
    assert fits(remote.plan.pick.memory)
