"""The server of `vss watch`: one page, no file, no stranger, no foreign site, and nobody is held up."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest
from fixtures.ros import wait
from fixtures.watch import get, server, state
from vss_ros.config import VssError
from vss_ros.nodes.watch.board import SAMPLES, Board
from vss_ros.nodes.watch.server import STRANGERS, WatchServer, place_of


def test_the_page_is_one_file_that_loads_nothing_from_elsewhere(server):
    status, headers, body = get(server().url)
    text = body.decode()
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert "uPlot=function" in text and ".uplot" in text, "the library is inside"
    assert not re.findall(r'(?:src|href)="(?!data:)', text) and "@import" not in text
    assert text.count("<script>") == len(
        re.findall("script-src ([^;]*)", headers["Content-Security-Policy"])[0].split()
    )
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path", ["/../setup.py", "/%2e%2e/%2e%2e/etc/passwd", "/web/watch.html", "//etc/passwd"]
)
def test_no_path_but_its_three_exists(server, path):
    assert get(server().url, path)[0] == 404


def test_only_get_and_only_well_formed_addresses(server):
    url = server().url
    for method in ("POST", "PUT", "DELETE", "HEAD"):
        status, headers, _ = get(url, "/state.json", method)
        assert status == 501 and "Content-Security-Policy" in headers
    assert get(url, "/state.json?after=x")[0] == 400
    assert get(url, "/state.json?a&b=1&c=1&d=1&e=1&f=1")[0] == 400


def test_a_foreign_page_that_takes_our_address_is_refused(server):
    """DNS rebinding: the browser would send the foreign name."""
    url = server().url
    for host in ("evil.example", "evil.example:8088", "", "[", "10.0.0.1"):
        assert get(url, "/state.json", Host=host)[0] == 403, host
    for host in ("localhost:9999", "127.0.0.1", "[::1]:8088"):
        assert get(url, "/", Host=host)[0] == 200, host
    assert get(url)[1]["Cross-Origin-Resource-Policy"] == "same-origin"


def test_beyond_this_machine_a_token_is_needed(server):
    one, two = server("0.0.0.0"), server("0.0.0.0")
    assert one.token and one.token != two.token and len(one.token) >= 20
    assert one.token not in one.url and "0.0.0.0" not in one.url
    for path in ("/", "/state.json", "/picture", "/nothing"):
        assert get(one.url, path)[0] == 403
        assert get(one.url, f"{path}?token={two.token}")[0] == 403
        assert get(one.url, f"{path}?token=%C3%A9")[0] == 403
    assert get(one.url, f"/?token={one.token}", Host="robot:8088")[0] == 200
    fixed = server(token="mine")
    assert get(fixed.url)[0] == 403 and get(fixed.url, "/?token=mine")[0] == 200


def test_an_address_that_cannot_be_had_is_one_line(server):
    taken = server()
    with pytest.raises(VssError, match=r"cannot listen on 127.0.0.1:\d+: .*choose another --host or --port"):
        WatchServer(Board(), "127.0.0.1", taken.server_address[1])
    for nowhere in ("nowhere.invalid", "x" * 5000, "a..b"):
        with pytest.raises(VssError, match=f"cannot listen on {nowhere[:9]}"):
            WatchServer(Board(), nowhere, 0)


def test_a_picture_is_waited_for_and_is_the_newest(server):
    watch = server()
    board = watch.board
    assert not board.watched()
    assert get(watch.url, "/picture")[0] == 204 and board.watched() == [""]
    threading.Timer(0.03, board.show, ("", b"one", b"1")).start()
    status, headers, body = get(watch.url, "/picture")
    assert (status, body, headers["X-Number"]) == (200, b"one1", "1")
    assert get(watch.url, "/picture?after=1")[0] == 204
    board.show("", b"two", b"")
    board.show("", b"three", b"")
    assert get(watch.url, "/picture?after=1")[2] == b"three", "what was missed is left out"
    assert get(watch.url, "/picture?after=99")[2] == b"three", "99 was a picture of an earlier server"


def test_figures_come_once_and_facts_always(server):
    watch = server()
    watch.board.tell(node="/segment", problem="")
    for number in range(3):
        watch.board.add("", {"latency_ms": float(number)})
    first = state(watch.url)
    assert first["node"] == "/segment" and [s[1]["latency_ms"] for s in first["samples"]] == [0, 1, 2]
    assert first["samples"][0][0] <= first["samples"][2][0] <= time.time() + 1
    watch.board.add("", {"latency_ms": 3.0})
    second = state(watch.url, first["number"])
    assert [s[1]["latency_ms"] for s in second["samples"]] == [3] and second["node"] == "/segment"
    watch.board.tell(node="/segment", problem="")
    assert state(watch.url, second["number"])["number"] == second["number"], "nothing is new"
    assert len(state(watch.url, 10**6)["samples"]) == 4, "a page that knew an earlier server"
    for _ in range(2 * SAMPLES):
        watch.board.add("", {})
    assert len(state(watch.url)["samples"]) == SAMPLES


def test_browsers_that_read_nothing_hold_up_nobody(server):
    watch = server()
    watch.board.show("", bytes(8 << 20), b"")  # more than a socket's buffers take
    port = urlsplit(watch.url).port
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    for link in idle:
        link.sendall(b"GET /picture HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
    assert wait(lambda: watch.board.watched())
    for number in range(20):
        watch.board.show("", b"picture %d" % number, b"")  # by the node's thread: never blocks
        assert get(watch.url, "/picture")[2] == b"picture %d" % number
    for link in idle:
        link.close()


def half_open(watch, count, head=b""):
    links = []
    for _ in range(count):
        links.append(socket.create_connection(("127.0.0.1", urlsplit(watch.url).port)))
        links[-1].sendall(head)
    return links


def is_open(link) -> bool:
    link.setblocking(False)
    try:
        return link.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_half_open_connections_lock_nobody_out(server):
    watch = server("0.0.0.0")
    links = half_open(watch, 3 * STRANGERS[0], b"GET /?token=")
    assert wait(lambda: len(watch.links) == STRANGERS[1], 5.0), "the oldest of an address make room"
    assert get(watch.url, f"/?token={watch.token}")[0] == 200
    assert sum(map(is_open, links)) <= STRANGERS[1]
    for link in links:
        link.close()
    assert wait(lambda: not watch.links), "all are given back"


def test_requests_without_the_token_take_no_place_of_those_with_it(server, monkeypatch):
    monkeypatch.setattr("vss_ros.nodes.watch.server.GUESTS", (4, 3))
    watch = server("0.0.0.0")
    for _ in range(8):
        assert get(watch.url)[0] == 403
    head = f"GET /state.json?token={watch.token} HTTP/1.1\r\nHost: robot\r\n\r\n".encode()
    links = half_open(watch, 3, head)
    assert all(link.recv(12) == b"HTTP/1.1 200" for link in links)
    assert get(watch.url, f"/?token={watch.token}")[0] == 503
    links[0].close()
    assert wait(lambda: get(watch.url, f"/?token={watch.token}")[0] == 200)
    for link in links:
        link.close()


def test_a_head_that_trickles_has_one_deadline(server, monkeypatch):
    monkeypatch.setattr("vss_ros.nodes.watch.server.HEAD", 0.5)
    watch = server()
    [link] = half_open(watch, 1)
    began = time.monotonic()
    with contextlib.suppress(OSError):
        while is_open(link) and time.monotonic() - began < 5:
            link.sendall(b"a")
            time.sleep(0.05)
    assert 0.4 < time.monotonic() - began < 2
    assert wait(lambda: not watch.links)


def test_addresses_of_one_network_count_as_one():
    assert place_of("10.0.0.1") == place_of("::ffff:10.0.0.1") != place_of("10.0.0.2")
    assert place_of("2001:db8::1") == place_of("2001:db8::2") != place_of("2001:db8:0:1::1")
    assert place_of("fe80::1%eth0") == place_of("fe80::2")


def test_pages_of_other_sites_are_refused(server):
    open_to_us, with_token = server(), server(token="mine")
    link = {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    for watch, path in ((open_to_us, "/picture"), (with_token, "/picture?token=mine")):
        for foreign in (
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
            {"Origin": "http://evil"},
        ):
            assert get(watch.url, path, **foreign)[0] == 403
            assert not watch.board.watched(), "it makes no robot draw"
        port = urlsplit(watch.url).port
        assert get(watch.url, path, Sec_Fetch_Site="same-origin", Origin=f"http://127.0.0.1:{port}")[0] == 204
    assert get(open_to_us.url, "/", Sec_Fetch_Site="cross-site", **link)[0] == 403
    assert get(with_token.url, "/?token=mine", Sec_Fetch_Site="cross-site", **link)[0] == 200, (
        "a link in a chat"
    )


def test_cameras_have_pictures_and_figures_of_their_own(server):
    watch = server()
    watch.board.cameras(["front", "left"])
    watch.board.show("left", b"left", b"")
    watch.board.add("front", {"latency_ms": 1.0})
    assert get(watch.url, "/picture?camera=left")[2] == b"left"
    assert get(watch.url, "/picture?camera=front")[0] == 204 and watch.board.watched() == ["front", "left"]
    assert (
        len(state(watch.url, camera="front")["samples"]) == 1
        and not state(watch.url, camera="left")["samples"]
    )
    assert state(watch.url, camera="none")["cameras"] == ["front", "left"]
    watch.board.cameras(["left"])
    assert get(watch.url, "/picture?camera=left")[2] == b"left", "what stays keeps what it has"
