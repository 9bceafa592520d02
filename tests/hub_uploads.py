"""A hub on this machine that takes uploads: as much of its HTTP interface as making and listing a repository and one commit need.

Small files come inside the commit, safetensors by Git LFS as the hub asks for them. No network, no mock.
"""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LFS_SUFFIX = ".safetensors"


@dataclass
class Hub:
    """What was uploaded."""

    url: str = ""
    token: str = "hf_secret"
    created: list[dict[str, Any]] = field(default_factory=list)
    cards: list[str] = field(default_factory=list)  # model cards it was asked to check
    objects: dict[str, bytes] = field(default_factory=dict)  # by SHA-256
    files: dict[str, bytes] = field(default_factory=dict)  # of the repository, by path


@contextmanager
def hub_that_takes_uploads(repo: str) -> Iterator[Hub]:
    """Run the hub; it knows one token and takes commits to `repo` alone."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub, repo))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub, repo: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            if self.path.split("?")[0] != f"/api/models/{repo}/tree/main":
                self._send(404, {"error": f"no such place: {self.path}"})
                return
            self._send(200, [{"type": "file", "path": name, "size": len(text), "oid": "0"} for name, text in hub.files.items()])

        def do_POST(self) -> None:  # noqa: N802
            body = self._body()
            path = self.path.split("?")[0]
            if path == "/api/validate-yaml":
                hub.cards.append(json.loads(body)["content"])
                self._send(200, {"errors": [], "warnings": []})
            elif self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._send(401, {"error": "Invalid credentials"})
            elif path == "/api/repos/create":
                hub.created.append(json.loads(body))
                self._send(200, {"url": f"{hub.url}/{repo}"})
            elif path == f"/api/models/{repo}/preupload/main":
                self._send(200, {"files": [_mode(file["path"]) for file in json.loads(body)["files"]]})
            elif path == f"/{repo}.git/info/lfs/objects/batch":
                objects = [self._action(one) for one in json.loads(body)["objects"]]
                self._send(200, {"transfer": "basic", "objects": objects})
            elif path == f"/api/models/{repo}/commit/main":
                self._commit(body)
            else:
                self._send(404, {"error": f"no such place: {path}"})

        def do_PUT(self) -> None:  # noqa: N802
            hub.objects[self.path.rsplit("/", 1)[1]] = self._body()
            self._send(200, {})

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _action(self, one: dict[str, Any]) -> dict[str, Any]:
            return {**one, "actions": {"upload": {"href": f"{hub.url}/objects/{one['oid']}"}}}

        def _commit(self, body: bytes) -> None:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.objects[value["oid"]]
                elif line["key"] == "deletedFile":
                    del hub.files[value["path"]]
            answer = {"commitUrl": f"{hub.url}/{repo}/commit/0123", "commitOid": "0123", "hookOutput": "", "success": True}
            self._send(200, answer)

        def _send(self, status: int, answer: dict[str, Any] | list[dict[str, Any]]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    return Handler


def _mode(path: str) -> dict[str, Any]:
    mode = "lfs" if path.endswith(LFS_SUFFIX) else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}
