"""Mutated requests to `vss watch`: each is answered or hung up on, and the next visitor is served."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import numpy as np
import pytest
from fixtures.fuzz import COUNT, mutate_bytes, survives
from fixtures.ros import wait
from fixtures.watch import get, server

pytestmark = pytest.mark.slow
SEEDS = [
    b"GET /state.json?after=0&camera=front&token=x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET /picture?after=1 HTTP/1.1\r\nHost: [::1]:80\r\nSec-Fetch-Site: same-origin\r\nOrigin: http://x\r\n\r\n",
    b"POST / HTTP/1.0\r\nContent-Length: 99999999999\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
    b"GET http://localhost/%00%ff?%zz=&&;a=b HTTP/9.9\r\n" + b"A: b\r\n" * 20 + b"\r\n",
]


def test_requests(server):
    watch = server()
    watch.board.show("", b"jpeg", b"png")
    port = urlsplit(watch.url).port

    def ask(rng):
        data = mutate_bytes(rng, SEEDS[int(rng.integers(len(SEEDS)))])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as link:
            link.sendall(data)
            link.shutdown(socket.SHUT_WR)
            answer = b""
            while part := receive(link):
                answer += part
        assert not answer or answer.startswith((b"HTTP/1.", b"<!DOCTYPE", b"<!doctype")), answer[:80]

    assert survives("http", ask) == COUNT
    assert wait(lambda: not watch.links) and get(watch.url)[0] == 200


def receive(link):
    try:
        return link.recv(1 << 16)
    except ConnectionResetError:  # it hung up while we still wrote
        return b""
