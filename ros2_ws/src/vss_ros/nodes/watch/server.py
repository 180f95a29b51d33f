"""The server behind `vss watch`: the standard library's, since a robot should need nothing more for it.

A browser asks for each picture and for each batch of figures once it has drawn the one before, and waits here
until there is a newer one. So one picture is under way to each browser, however slow it is: nothing queues.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import logging
import re
import secrets
import socket
import socketserver
import sys
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from vss_ros.config import VssError

SAMPLES = 600
"""Frames whose figures are kept; a page that opens late begins with them."""
PATIENCE = 5.0
"""Seconds that a request waits for something new before it is answered without."""
CONNECTIONS = 32
"""At once; a page takes two."""
IDLE = 30.0
"""Seconds in which a browser must send or take something, or lose its connection."""
LOG = logging.getLogger(__name__)


class Board:
    """The newest of everything that a page shows; any thread may write and read."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.changed = threading.Condition()
        self.jpeg, self.jpegs = b"", 0
        self.facts: dict[str, Any] = {}
        self.samples: deque[tuple[int, float, dict[str, float]]] = deque(maxlen=SAMPLES)
        self.number = 0
        self.asked = -float("inf")
        self.epoch = time.time() - time.monotonic()

    def show(self, jpeg: bytes) -> None:
        """A new picture."""
        with self.changed:
            self.jpeg, self.jpegs = jpeg, self.jpegs + 1
            self.changed.notify_all()

    def add(self, figures: dict[str, float]) -> None:
        """The figures of one frame."""
        with self.changed:
            self.number += 1
            self.samples.append((self.number, self.epoch + time.monotonic(), figures))
            self.changed.notify_all()

    def tell(self, **facts: Any) -> None:
        """What holds until it is told anew."""
        with self.changed:
            if any(self.facts.get(name) != value for name, value in facts.items()):
                self.facts.update(facts)
                self.number += 1
                self.changed.notify_all()

    def watched(self) -> bool:
        """Whether any browser wants pictures."""
        return time.monotonic() - self.asked < self.patience + 2.0

    def picture(self, after: int) -> tuple[int, bytes] | None:
        """Number and bytes of the newest picture; None if it is still number `after` when patience ends."""
        self.asked = time.monotonic()
        with self.changed:
            # Unequal, not above: the browser's number may be that of an earlier server.
            new = self.changed.wait_for(lambda: self.jpegs not in (0, after), self.patience)
            return (self.jpegs, self.jpeg) if new else None

    def state(self, after: int) -> dict[str, Any]:
        """All facts, and the figures of frames since state `after`."""
        with self.changed:
            self.changed.wait_for(lambda: self.number != after, self.patience)
            known = after if after <= self.number else 0
            samples = [[seconds, figures] for number, seconds, figures in self.samples if number > known]
            return {"number": self.number, **self.facts, "samples": samples}


class Handler(BaseHTTPRequestHandler):
    """GET of the page, of its state and of its picture; nothing is read from the disk for a request."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "vss", ""
    timeout = IDLE
    server: WatchServer

    def do_GET(self) -> None:
        try:
            url = urlsplit(self.path)
            query = dict(parse_qsl(url.query, max_num_fields=4))
            after = int(query.get("after", 0))
        except ValueError:
            return self.answer(400, "text/plain", b"malformed address\n")
        if not self.allowed(query.get("token", "")):
            text = "the address that vss watch printed holds a token that is needed here\n"
            return self.answer(403, "text/plain", text.encode())
        if url.path == "/":
            return self.answer(200, "text/html; charset=utf-8", self.server.page)
        if url.path == "/state.json":
            return self.answer(200, "application/json", json.dumps(self.server.board.state(after)).encode())
        if url.path == "/overlay.jpg":
            new = self.server.board.picture(after)
            return self.answer(200, "image/jpeg", new[1], new[0]) if new else self.answer(204)
        return self.answer(404, "text/plain", b"not found\n")

    def allowed(self, token: str) -> bool:
        """The token if one is needed; else the name must be this machine's, whatever a foreign page resolves to it."""
        if self.server.token:
            return hmac.compare_digest(token.encode(), self.server.token.encode())
        try:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def answer(self, code: int, kind: str = "", body: bytes = b"", number: int = 0) -> None:
        self.send_response(code)
        if kind:
            self.send_header("Content-Type", kind)
        if code != 204:
            self.send_header("Content-Length", str(len(body)))
        if number:
            self.send_header("X-Number", str(number))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        for name, value in self.server.safety.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the address may hold the token."""


class WatchServer(ThreadingHTTPServer):
    """Serves `board` until `close`; `url` is what to open. VssError if the address cannot be had."""

    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(self, board: Board, host: str, port: int, token: str = "") -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self.address_family, address = found[0][0], found[0][4]
            super().__init__(address, Handler)  # type: ignore[arg-type]
        except OSError as error:
            raise VssError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --host or --port"
            ) from error
        self.board = board
        self.slots = threading.BoundedSemaphore(CONNECTIONS)
        local = ipaddress.ip_address(address[0]).is_loopback
        self.token = token or ("" if local else secrets.token_urlsafe(16))
        self.page = load_page()
        self.safety = safety_headers(self.page)
        name = host if local else socket.gethostname()
        name = f"[{name}]" if ":" in name else name
        self.url = f"http://{name}:{self.server_address[1]}/" + (f"?token={self.token}" if self.token else "")
        threading.Thread(target=self.serve_forever, args=(0.1,), name="server", daemon=True).start()

    def server_bind(self) -> None:
        """Without the base class's look-up of this machine's name, which takes long where there is no network."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, address: Any) -> None:
        if self.slots.acquire(blocking=False):
            super().process_request(request, address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, address: Any) -> None:
        try:
            super().process_request_thread(request, address)
        finally:
            self.slots.release()

    def handle_error(self, request: Any, address: Any) -> None:
        """A browser that left is no error."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            LOG.error("%s: %s", type(error).__name__, error)

    def close(self) -> None:
        self.shutdown()
        self.server_close()


def load_page() -> bytes:
    """web/watch.html with the plotting library inside: one file, nothing else to load."""
    folder = Path(__file__).parents[2] / "web"
    page = (folder / "watch.html").read_text()
    for name in ("uPlot.min.css", "uPlot.iife.min.js"):
        page = page.replace(f"/* {name} */", (folder / name).read_text())
    return page.encode()


def safety_headers(page: bytes) -> dict[str, str]:
    """Only this page's own scripts run, it talks to this server only, and no other page may use it."""

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), page, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(t).digest()).decode()}'" for t in found)

    policy = (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
