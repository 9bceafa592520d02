"""A hub on this machine: as much of the HTTP interface as one public data set or model needs to be had. No network, no mock."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BRANCH = "main"
FILE = "train.jsonl"


def hub_with_dataset(dataset: str, content: bytes) -> AbstractContextManager[str]:
    """Serve one data set that holds `train.jsonl`; yields the address for HF_ENDPOINT."""
    return _serving("datasets", dataset, {FILE: content})


def hub_with_model(name: str, folder: Path) -> AbstractContextManager[str]:
    """Serve the files of `folder` as the model `name`, branch main; yields the address for HF_ENDPOINT."""
    return _serving("models", name, {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()})


@contextmanager
def _serving(kind: str, name: str, files: Mapping[str, bytes]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(kind, name, files))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(kind: str, name: str, files: Mapping[str, bytes]) -> type[BaseHTTPRequestHandler]:
    about = {"id": name, "sha": COMMIT, "private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
    when = "2024-01-01T00:00:00.000Z"
    about |= {"tags": [], "siblings": [{"rfilename": file} for file in files], "lastModified": when, "createdAt": when}
    tree = [{"type": "file", "path": file, "size": len(data), "oid": _etag(data)} for file, data in files.items()]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            path = self.path.split("?")[0]
            revisions = [f"/api/{kind}/{name}/revision/{revision}" for revision in (BRANCH, COMMIT)]
            file = path.rsplit("/", 1)[1]
            if path in (f"/api/{kind}/{name}", *revisions):
                self._send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})
            elif path == f"/api/{kind}/{name}/tree/{COMMIT}":
                self._send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
            elif path.endswith(f"{name}/resolve/{COMMIT}/{file}") and file in files:
                self._send_file(files[file])
            else:
                self._send(404, b"{}", {"X-Error-Code": "EntryNotFound" if name in path else "RepoNotFound"})

        do_HEAD = do_GET

        def _send_file(self, content: bytes) -> None:
            headers = {"ETag": f'"{_etag(content)}"', "Accept-Ranges": "bytes"}
            wanted = self.headers.get("Range")
            if wanted is None:
                self._send(200, content, headers)
                return
            first, last = (int(bound) for bound in wanted.removeprefix("bytes=").split("-"))
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self._send(206, content[first : last + 1], headers)

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    return Handler


def _etag(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
