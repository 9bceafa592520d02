"""A model hub on this machine: as much of the HTTP interface as downloading one public model needs. No network, no mock."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
BRANCH = "main"


@contextmanager
def hub_with_model(name: str, folder: Path) -> Iterator[str]:
    """Serve the files of `folder` as the model `name`, branch main; yields the address for HF_ENDPOINT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(name, folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(name: str, folder: Path) -> type[BaseHTTPRequestHandler]:
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    about = {
        "id": name,
        "sha": COMMIT,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
    }
    about |= {"siblings": [{"rfilename": file} for file in files], "lastModified": "2024-01-01T00:00:00.000Z"}
    tree = [{"type": "file", "path": file, "size": len(data), "oid": _etag(data)} for file, data in files.items()]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # noqa: N802
            path = self.path.split("?")[0]
            revisions = [f"/api/models/{name}/revision/{revision}" for revision in (BRANCH, COMMIT)]
            if path in (f"/api/models/{name}", *revisions):
                self._send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})
            elif path == f"/api/models/{name}/tree/{COMMIT}":
                self._send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
            elif path.startswith(f"/{name}/resolve/{COMMIT}/") and path.rsplit("/", 1)[1] in files:
                data = files[path.rsplit("/", 1)[1]]
                self._send(200, data, {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": COMMIT})
            else:
                self._send(404, b"{}", {"X-Error-Code": "EntryNotFound" if name in path else "RepoNotFound"})

        do_HEAD = do_GET

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    return Handler


def _etag(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
