"""A server that speaks vLLM's protocol, and answers as `tests.control_world.Weights` do that a manifest describes.

Switches make it hang up on whoever wants an answer, and serve the base model under every name, as wrong weights do.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from semievol import adapter_directory
from tests.control_world import Weights

CHAT = "/v1/chat/completions"
BASE_MODEL = "base"
"""What the daemon calls the model that is adapted."""
BASE = Weights(4, 0.5)
TOKENS = 2
"""Of every answer, as in the fingerprints of `tests.control_world.Trainer`."""


@dataclass
class Replica:
    """One server. `hangs_up`: it gives no answer, though it says that it is well; `wrong`: adapters are not applied."""

    url: str = ""
    hangs_up: bool = False
    wrong: bool = False
    loaded: dict[str, Weights] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.url.removeprefix("http://")

    def restart(self, *, wrong: bool) -> None:
        """Come back as a new process, with nothing loaded."""
        self.loaded.clear()
        self.wrong, self.hangs_up = wrong, False

    def answered(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and body of an answer."""
        if path == "/health":
            return 200, {}
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": each} for each in (BASE_MODEL, *self.loaded)]}
        if path == "/v1/load_lora_adapter":
            known = adapter_directory.verify(Path(body["lora_path"])).training
            self.loaded[body["lora_name"]] = Weights(known["right"], known["entropy"])
            return 200, {}
        if path == "/v1/unload_lora_adapter":
            return (404 if self.loaded.pop(body["lora_name"], None) is None else 200), {}
        if path == CHAT:
            return self._chat(body)
        return 404, {"error": {"message": f"there is no {path}"}}

    def _chat(self, body: Any) -> tuple[int, Any]:
        model, question = body["model"], body["messages"][-1]["content"]
        if model != BASE_MODEL and model not in self.loaded:
            return 404, {"error": {"message": f"The model `{model}` does not exist."}}
        weights = BASE if self.wrong or model == BASE_MODEL else self.loaded[model]
        text = weights.answer(question) if re.search(r"\d", question) else "?"
        token = {"token": "token_id:1", "logprob": -weights.entropy, "bytes": None, "top_logprobs": []}
        tokens = [token | {"token": f"token_id:{number}"} for number in range(1, TOKENS + 1)]
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": tokens}
        count = body.get("n") or 1
        return 200, {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [{"index": place, **choice} for place in range(count)],
            "usage": {"prompt_tokens": 10, "completion_tokens": TOKENS * count, "total_tokens": 10 + TOKENS * count},
        }


@contextmanager
def replica() -> Iterator[Replica]:
    """Listens for the block."""
    it = Replica()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if it.hangs_up and self.path == CHAT:
                self.close_connection = True
                return
            status, body = it.answered(self.path, json.loads(raw) if raw else None)
            said = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    it.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="replica")
    thread.start()
    try:
        yield it
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
