"""The server behind `vss watch`: the standard library's, since a robot should need nothing more for it.

A browser asks for each picture and for each batch of figures once it has drawn the one before, and waits here
until there is a newer one. So one picture is under way to each browser, however slow it is: nothing queues.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from vss_ros.config import VssError
from vss_ros.data.figures import FIGURES, PLOTS
from vss_ros.media.page import content_policy, load_page
from vss_ros.nodes.watch.board import Board
from vss_ros.nodes.watch.token import make_token

HEAD, ANSWER = 10.0, 30.0
"""Seconds for the whole head of a request, however its bytes trickle, and for the whole answer."""
STRANGERS, GUESTS = (32, 8), (64, 24)
"""Connections that have not shown the token yet, and those that have: at most, and of one address; a page takes two."""
LOG = logging.getLogger(__name__)


@dataclass
class Link:
    """An open connection. place: its address, of IPv6 the network; known: it has shown the token."""

    socket: socket.socket
    place: str
    deadline: float
    known: bool = False


class Handler(BaseHTTPRequestHandler):
    """GET of the page, of its state and of its picture; nothing is read from the disk for a request."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "vss", ""
    timeout = ANSWER
    server: WatchServer

    def handle_one_request(self) -> None:
        self.server.allow(self.connection, HEAD)
        super().handle_one_request()

    def do_GET(self) -> None:
        if self.request_version == "HTTP/0.9":  # its answer would have no head, and so no policy
            return None
        try:
            url = urlsplit(self.path)
            query = dict(parse_qsl(url.query, max_num_fields=4))
            after = int(query.get("after", "0")[:20])
        except ValueError:
            return self.answer(400, "text/plain", b"malformed address\n")
        if problem := self.refusal(query.get("token", "")):
            self.close_connection = True
            return self.answer(403, "text/plain", f"{problem}\n".encode())
        if not self.server.welcome(self.connection):
            self.close_connection = True
            return self.answer(503, "text/plain", b"too many pages are open\n")
        self.server.allow(self.connection, ANSWER)
        camera = query.get("camera", "")
        if url.path == "/":
            return self.answer(200, "text/html; charset=utf-8", self.server.page)
        if url.path == "/state.json":
            state = json.dumps(self.server.board.state(camera, after), allow_nan=False)
            return self.answer(200, "application/json", state.encode())
        if url.path == "/picture":
            new = self.server.board.picture(camera, after)
            if new is None:
                return self.answer(204)
            number, jpeg, png = new
            sizes = {"X-Number": str(number), "X-Jpeg-Bytes": str(len(jpeg))}
            return self.answer(200, "application/octet-stream", jpeg + png, sizes)
        return self.answer(404, "text/plain", b"not found\n")

    def refusal(self, token: str) -> str:
        """Why the request is not answered, or "".

        Without a token the name must be this machine's, whatever a foreign page resolves to it. A page of another
        site may not use this one; only a link with the token may lead here.
        """
        head, secret = self.headers, self.server.token
        if secret:
            if not hmac.compare_digest(token.encode(), secret.encode()):
                return "the address that vss watch printed holds a token that is needed here"
        else:
            try:
                host = urlsplit(f"//{head.get('Host', '')}").hostname or ""
                if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
                    raise ValueError
            except ValueError:
                return "without a token only this machine's own name is answered, such as localhost"
        site, origin = head.get("Sec-Fetch-Site", "none"), head.get("Origin")
        followed = (
            secret and head.get("Sec-Fetch-Mode") == "navigate" and head.get("Sec-Fetch-Dest") == "document"
        )
        if (site not in ("same-origin", "none") and not followed) or origin not in (
            None,
            f"http://{head.get('Host')}",
        ):
            return "a page of another site asks: open the address itself"
        return ""

    def answer(
        self, code: int, kind: str = "", body: bytes = b"", more: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(code)
        if kind:
            self.send_header("Content-Type", kind)
        if code != 204:
            self.send_header("Content-Length", str(len(body)))
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        for name, value in self.server.safety.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the address may hold the token."""


class WatchServer(ThreadingHTTPServer):
    """Serves `board` until `close`; `url` is what to open, without the token. VssError if the address cannot be had.

    token: needed by every request; "": a new one, unless only this machine can reach the address.
    """

    daemon_threads = True
    request_queue_size = 2 * STRANGERS[0]

    def __init__(self, board: Board, host: str, port: int, token: str = "") -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self.address_family, address = found[0][0], found[0][4]
            super().__init__(address, Handler)  # type: ignore[arg-type]
        except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host
            reason = getattr(error, "strerror", None) or error
            raise VssError(
                f"cannot listen on {host}:{port}: {reason}; choose another --host or --port"
            ) from error
        self.board = board
        self.links: dict[socket.socket, Link] = {}
        self.guard = threading.Lock()
        local = ipaddress.ip_address(address[0]).is_loopback
        self.token = token or ("" if local else make_token())
        shown = {name: {"title": item.title, "unit": item.unit} for name, item in FIGURES.items()}
        page = load_page("watch.html").replace(
            "/* figures */", json.dumps({"plots": PLOTS, "figures": shown})
        )
        self.page, self.safety = page.encode(), safety_headers(page)
        name = host if local else socket.gethostname()
        name = f"[{name}]" if ":" in name else name
        self.url = f"http://{name}:{self.server_address[1]}/"
        threading.Thread(target=self.serve_forever, args=(0.1,), name="server", daemon=True).start()

    def server_bind(self) -> None:
        """Without the base class's look-up of this machine's name, which takes long where there is no network."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, address: Any) -> None:
        """A stranger always gets in: in place of the oldest of its address, or of all, who showed no token."""
        with self.guard:
            link = Link(request, place_of(address[0]), time.monotonic() + HEAD)
            strangers = [other for other in self.links.values() if not other.known]
            same = [other for other in strangers if other.place == link.place]
            if (
                oldest := same[:1]
                if len(same) >= STRANGERS[1]
                else strangers[: len(strangers) >= STRANGERS[0]]
            ):
                hang_up(self.links.pop(oldest[0].socket))
            self.links[request] = link
        super().process_request(request, address)

    def welcome(self, request: socket.socket) -> bool:
        """Count a connection that has shown the token among the guests, if there is room."""
        with self.guard:
            link = self.links.get(request)
            if link is None or link.known:
                return link is not None
            guests = [other for other in self.links.values() if other.known]
            same = sum(other.place == link.place for other in guests)
            link.known = len(guests) < GUESTS[0] and same < GUESTS[1]
            return link.known

    def allow(self, request: socket.socket, seconds: float) -> None:
        """From now on a connection has this long for what it is doing."""
        with self.guard:
            if request in self.links:
                self.links[request].deadline = time.monotonic() + seconds

    def service_actions(self) -> None:
        """Ten times a second: hang up on who is too slow."""
        now = time.monotonic()
        with self.guard:
            for link in [link for link in self.links.values() if link.deadline < now]:
                hang_up(self.links.pop(link.socket))

    def shutdown_request(self, request: Any) -> None:
        with self.guard:
            self.links.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, address: Any) -> None:
        """A browser that left is no error."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            LOG.error("%s: %s", type(error).__name__, error)

    def close(self) -> None:
        self.shutdown()
        self.server_close()


def place_of(address: str) -> str:
    """What counts as one address: of IPv6 the network, since a machine has as many addresses there as it wants."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return str(ip if ip.version == 4 else mapped or ipaddress.ip_network((ip, 64), strict=False))


def hang_up(link: Link) -> None:
    """Its thread reads the end, and closes."""
    with contextlib.suppress(OSError):
        link.socket.shutdown(socket.SHUT_RDWR)


def safety_headers(page: str) -> dict[str, str]:
    """Only this page's own scripts run, it talks to this server only, and no other page may use it."""
    return {
        "Content-Security-Policy": f"{content_policy(page)}; frame-ancestors 'none'",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
