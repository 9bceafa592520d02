"""A data-set hub on this machine: as much of the HTTP interface as streaming one public data set needs. No network, no mock."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = "train.jsonl"


@contextmanager
def hub_with_dataset(dataset: str, content: bytes) -> Iterator[str]:
    """Serve one data set that holds `train.jsonl`; yields the address for HF_ENDPOINT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(dataset, content))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(dataset: str, content: bytes) -> type[BaseHTTPRequestHandler]:
    about = {
        "id": dataset,
        "sha": COMMIT,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
    }
    about |= {
        "siblings": [{"rfilename": FILE}],
        "lastModified": "2024-01-01T00:00:00.000Z",
        "createdAt": "2024-01-01T00:00:00.000Z",
    }
    tree = [{"type": "file", "path": FILE, "size": len(content), "oid": COMMIT}]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            path = self.path.split("?")[0]
            if path == f"/api/datasets/{dataset}" or path.startswith(f"/api/datasets/{dataset}/revision/"):
                self._send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})
            elif path == f"/api/datasets/{dataset}/tree/{COMMIT}":
                self._send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
            elif path.endswith(f"/resolve/{COMMIT}/{FILE}"):
                self._send_file()
            else:
                self._send(404, b"{}", {"X-Error-Code": "EntryNotFound" if dataset in path else "RepoNotFound"})

        do_HEAD = do_GET

        def _send_file(self) -> None:
            headers = {"ETag": '"1"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            wanted = self.headers.get("Range")
            if wanted is None:
                self._send(200, content, headers)
                return
            first, last = (int(bound) for bound in wanted.removeprefix("bytes=").split("-"))
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self._send(206, content[first : last + 1], headers)

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    return Handler
