"""A judge behind a real HTTP server that speaks the OpenAI chat protocol, with faults on request.

Its verdict is a deterministic overlap score, so that every number downstream can be computed by hand: the better of two texts
covers more of the source's words with fewer of its own. Faults are scripted per request. Run it by itself with
`python -m tests.judge_server --port 8000`.
"""

import argparse
import itertools
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from srpo_core.judging.capabilities import PROBE_GAME

_BLOCK = re.compile(r"<<<BEGIN (?P<name>.+?) (?P<mark>[0-9a-f]{16})>>>\n(?P<text>.*?)\n<<<END (?P=name) (?P=mark)>>>", re.DOTALL)

Fault = str | None
Script = Callable[[int, dict[str, Any]], Fault]  # (request number from 0, request body) -> fault


def overlap_score(source: str, text: str) -> float:
    """Words shared with the source over the square root of the words used; 0 for an empty text."""
    words = re.findall(r"\w+", text.lower())
    shared = set(words) & set(re.findall(r"\w+", source.lower()))
    return len(shared) / len(words) ** 0.5 if words else 0.0


def judged_texts(body: dict[str, Any]) -> tuple[str, str, str]:
    """Source, first text and second text of a request."""
    found = [match["text"] for match in _BLOCK.finditer(body["messages"][-1]["content"])]
    assert len(found) == 3, f"expected three fenced texts, found {len(found)}"
    return found[0], found[1], found[2]


def overlap_label(body: dict[str, Any]) -> str:
    """A or B; the first on equal scores, as a judge with a position bias would say."""
    source, first, second = judged_texts(body)
    return "A" if overlap_score(source, first) >= overlap_score(source, second) else "B"


def is_probe(body: dict[str, Any]) -> bool:
    """Whether a request asks what the server honours, and not about a game."""
    return judged_texts(body)[1] == PROBE_GAME.candidate_text


def faults_in_turn(faults: Iterable[Fault]) -> Script:
    """The n-th request gets the n-th fault; none after the last."""
    listed = list(faults)
    return lambda number, _: listed[number] if number < len(listed) else None


class JudgeServer:
    """The server, running in a thread from `with` on; `requests` holds every body received, in order."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        schema: str = "honour",
        honours: Collection[str] = ("seed",),
        refuses: Collection[str] = (),
        probe_script: Script | None = None,
        delay: float = 0.0,
        model: str | None = None,
        port: int = 0,
    ) -> None:
        """`schema`: honour, ignore or refuse response_format. `delay`: seconds before each answer.

        `honours`: of seed, logprobs and structured_outputs. `refuses`: parameters that are answered with an error. Requests that
        only probe what the server can do are logged in `probes` and have a script of their own.
        """
        self.script = script or (lambda number, body: None)
        self.probe_script = probe_script or (lambda number, body: None)
        self.schema = schema
        self.honours, self.refuses = honours, refuses
        self.delay = delay
        self.model = model
        self.requests: list[dict[str, Any]] = []  # about games
        self.probes: list[dict[str, Any]] = []
        self.answered: list[dict[str, Any]] = []  # bodies whose reply was sent in full
        self.most_in_flight = 0
        self._in_flight = 0
        self._lock = threading.Lock()
        self._http = _Server(("127.0.0.1", port), _Handler)
        self._http.judge = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def take(self, body: dict[str, Any]) -> Fault:
        """Log a request and decide its fault."""
        log, script = (self.probes, self.probe_script) if is_probe(body) else (self.requests, self.script)
        with self._lock:
            log.append(body)
            number = len(log) - 1
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        time.sleep(self.delay)
        if self.schema == "refuse" and "response_format" in body:
            return "schema_refused"
        refused = next((name for name in self.refuses if name in body), None)
        return script(number, body) if refused is None else f"refused:{refused}"

    def done(self, body: dict[str, Any], *, answered: bool) -> None:
        """A request has left the server."""
        with self._lock:
            self._in_flight -= 1
            if answered and not is_probe(body):
                self.answered.append(body)

    def reply_text(self, body: dict[str, Any]) -> str:
        """What the judge says: JSON where a schema is asked for and honoured, else a comparison and a label line."""
        label = overlap_label(body)
        lines = body.get("structured_outputs", {}).get("choice", [])
        if lines and "structured_outputs" in self.honours:
            return next(line for line in lines if label in line[-4:])
        if self.schema == "honour" and "response_format" in body:
            key = body["response_format"]["json_schema"]["schema"]["required"][-1]
            return json.dumps({"comparison": f"One covers more of the source.{self._chance(body)}", key: label})
        question = body["messages"][-1]["content"]
        stated = next((name for name in ("More helpful", "Preferred") if f"{name}: <" in question), None)
        comparison = f"one covers more of the source.{self._chance(body)}"
        return f'Comparison: {comparison}\n{stated}: "{label}"' if stated else f"It covers more.\n[[{label}]]"

    def _chance(self, body: dict[str, Any]) -> str:
        """What differs from reply to reply at a temperature above 0."""
        if not body.get("temperature"):
            return ""
        return (
            f" ({body['seed']})" if "seed" in self.honours and "seed" in body else f" ({len(self.probes) + len(self.requests)})"
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    judge: JudgeServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


_STATUS_FAULTS: dict[str, tuple[int, dict[str, str], dict[str, Any]]] = {
    "429": (429, {}, {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}),
    "429_retry_after": (429, {"retry-after": "0.3"}, {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}),
    "429_retry_in_an_hour": (429, {"retry-after": "3600"}, {"message": "come back later", "code": "rate_limit_exceeded"}),
    "insufficient_quota": (429, {}, {"message": "you exceeded your quota", "code": "insufficient_quota"}),
    "400": (400, {}, {"message": "maximum context length is 10 tokens", "code": "context_length_exceeded", "param": "messages"}),
    "401": (401, {}, {"message": "incorrect API key", "code": "invalid_api_key"}),
    "404": (404, {}, {"message": "no such model", "code": "model_not_found"}),
    "500": (500, {}, {"message": "internal error"}),
    "schema_refused": (400, {}, {"message": "response_format is not supported", "param": "response_format"}),
    "temperature_refused": (400, {}, {"message": "not supported", "code": "unsupported_value", "param": "temperature"}),
}
_REPLY_FAULTS: dict[str, dict[str, Any]] = {
    "empty": {"content": ""},
    "null": {"content": None},
    "refusal": {"content": None, "refusal": "I cannot compare these."},
    "two_verdicts": {"content": 'Preferred: "A"\nPreferred: "B"'},
    "no_label": {"content": "Both have their merits."},
    "broken_json_content": {"content": '{"comparison": "One is bet'},
    "wrong_value": {"content": '{"comparison": "neither", "preferred": "C"}'},
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""

    def do_POST(self) -> None:  # noqa: N802
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        judge = self.server.judge
        fault = judge.take(body)
        answered = False
        try:
            answered = self._answer(body, fault)
        finally:
            judge.done(body, answered=answered)

    def _answer(self, body: dict[str, Any], fault: Fault) -> bool:
        """Send what the fault prescribes; True when a usable reply went out."""
        if fault is not None and fault.startswith("refused:"):
            name = fault.removeprefix("refused:")
            error = {"message": f"Unsupported parameter: '{name}'", "code": "unsupported_parameter", "param": name}
            self._send(400, json.dumps({"error": error}))
        elif fault in _STATUS_FAULTS:
            status, headers, error = _STATUS_FAULTS[fault]
            self._send(status, json.dumps({"error": error}), headers)
        elif fault == "timeout":
            time.sleep(2.0)
            self._reset()
        elif fault == "reset_mid_body":
            self._send(200, json.dumps(self._completion(body, None))[:40], declared=4000)
            self._reset()
        elif fault == "truncated_body":
            self._send(200, json.dumps(self._completion(body, None))[:-30])
        elif fault == "error_in_200":
            self._send(200, json.dumps({"error": {"message": "upstream failed"}}))
        else:
            request_id = f"request-{len(self.server.judge.requests)}"  # not exact where several are in flight
            self._send(200, json.dumps(self._completion(body, fault)), {"x-request-id": request_id})
            return True
        return False

    def _completion(self, body: dict[str, Any], fault: Fault) -> dict[str, Any]:
        message = _REPLY_FAULTS[fault] if fault in _REPLY_FAULTS else {"content": self.server.judge.reply_text(body)}
        model = "another-model" if fault == "wrong_model" else self.server.judge.model or body["model"]
        finish = {"length": "length", "content_filter": "content_filter"}.get(fault or "", "stop")
        words = sum(len(turn["content"].split()) for turn in body["messages"])
        honoured = body.get("logprobs") and "logprobs" in self.server.judge.honours
        logprobs = {"content": [{"token": "A", "logprob": -0.1, "top_logprobs": []}]} if honoured else None
        return {
            "id": "chatcmpl-test",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "system_fingerprint": "fp_test",
            "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant"} | message, "logprobs": logprobs}],
            "usage": {"prompt_tokens": words, "completion_tokens": 10, "total_tokens": words + 10},
        }

    def _send(self, status: int, text: str, headers: dict[str, str] | None = None, declared: int | None = None) -> None:
        payload = text.encode()
        self.send_response(status)
        for name, value in itertools.chain({"content-type": "application/json"}.items(), (headers or {}).items()):
            self.send_header(name, value)
        self.send_header("content-length", str(len(payload) if declared is None else declared))
        self.end_headers()
        self.wfile.write(payload)
        self.wfile.flush()

    def _reset(self) -> None:
        """Close with a TCP reset instead of a polite end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A deterministic judge that speaks the OpenAI chat protocol.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--schema", choices=["honour", "ignore", "refuse"], default="honour")
    arguments = parser.parse_args()
    with JudgeServer(port=arguments.port, schema=arguments.schema) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
