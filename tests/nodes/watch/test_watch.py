"""`vss watch`: its server, the watcher node beside a real segment node, and the page in a real Chromium."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from fixtures.browser import page
from fixtures.ros import PATIENCE, client, image, start, wait
from vss_ros import cli
from vss_ros.config import VssError
from vss_ros.nodes.watch.server import CONNECTIONS, SAMPLES, Board, WatchServer


@pytest.fixture
def server():
    """serve(host, token) -> WatchServer on a free port."""
    servers: list[WatchServer] = []

    def serve(host: str = "127.0.0.1", token: str = "") -> WatchServer:
        servers.append(WatchServer(Board(patience=0.1), host, 0, token))
        return servers[-1]

    yield serve
    for item in servers:
        item.close()


def get(url: str, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
    """(status, headers, body) of a request to the server of `url`."""
    address = urlsplit(url)
    link = http.client.HTTPConnection("127.0.0.1", address.port, timeout=PATIENCE)
    link.request(method, path, headers=headers)
    answer = link.getresponse()
    body = answer.read()
    link.close()
    return answer.status, answer.headers, body


def state(url: str, after: int = 0) -> dict[str, Any]:
    return json.loads(get(url, f"/state.json?after={after}")[2])


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
    assert one.url.endswith(f"?token={one.token}") and "0.0.0.0" not in one.url
    for path in ("/", "/state.json", "/overlay.jpg", "/nothing"):
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
    with pytest.raises(VssError, match=r"cannot listen on nowhere\.invalid"):
        WatchServer(Board(), "nowhere.invalid", 0)


def test_a_picture_is_waited_for_and_is_the_newest(server):
    watch = server()
    board = watch.board
    assert not board.watched()
    assert get(watch.url, "/overlay.jpg")[0] == 204 and board.watched()
    threading.Timer(0.03, board.show, (b"one",)).start()
    status, headers, body = get(watch.url, "/overlay.jpg")
    assert (status, body, headers["X-Number"]) == (200, b"one", "1")
    assert get(watch.url, "/overlay.jpg?after=1")[0] == 204
    board.show(b"two")
    board.show(b"three")
    assert get(watch.url, "/overlay.jpg?after=1")[2] == b"three", "what was missed is left out"
    assert get(watch.url, "/overlay.jpg?after=99")[2] == b"three", "99 was a picture of an earlier server"


def test_figures_come_once_and_facts_always(server):
    watch = server()
    watch.board.tell(node="/segment", problem="")
    for number in range(3):
        watch.board.add({"latency_ms": float(number)})
    first = state(watch.url)
    assert first["node"] == "/segment" and [s[1]["latency_ms"] for s in first["samples"]] == [0, 1, 2]
    assert first["samples"][0][0] <= first["samples"][2][0] <= time.time() + 1
    watch.board.add({"latency_ms": 3.0})
    second = state(watch.url, first["number"])
    assert [s[1]["latency_ms"] for s in second["samples"]] == [3] and second["node"] == "/segment"
    watch.board.tell(node="/segment", problem="")
    assert state(watch.url, second["number"])["number"] == second["number"], "nothing is new"
    assert len(state(watch.url, 10**6)["samples"]) == 4, "a page that knew an earlier server"
    for _ in range(2 * SAMPLES):
        watch.board.add({})
    assert len(state(watch.url)["samples"]) == SAMPLES


def test_browsers_that_read_nothing_hold_up_nobody(server):
    watch = server()
    watch.board.show(bytes(8 << 20))  # more than a socket's buffers take
    port = urlsplit(watch.url).port
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    for link in idle:
        link.sendall(b"GET /overlay.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
    assert wait(lambda: watch.board.watched())
    for number in range(20):
        watch.board.show(b"picture %d" % number)  # by the node's thread: never blocks
        assert get(watch.url, "/overlay.jpg")[2] == b"picture %d" % number
    for link in idle:
        link.close()


def test_connections_are_bounded_and_given_back(server):
    watch = server()
    port = urlsplit(watch.url).port
    links = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    assert wait(lambda: not watch.slots._value)
    with pytest.raises(OSError):
        get(watch.url)
    for link in links:
        link.close()
    assert wait(lambda: watch.slots._value == CONNECTIONS)
    assert get(watch.url)[0] == 200


def test_the_command_makes_ros_arguments(monkeypatch):
    from vss_ros.nodes import run

    made: list[list[str]] = []
    monkeypatch.setattr("vss_ros.nodes.watch.command.require_ros", lambda: None)
    monkeypatch.setattr(run, "watcher", lambda arguments: made.append(arguments) or 0)
    assert cli.main(["watch", "--namespace", "/robot1/", "--port", "9000", "--token", "a b"]) == 0
    [arguments] = made
    assert arguments[:3] == ["--ros-args", "-r", "__ns:=/robot1"]
    assert {'token:="a b"', "port:=9000", 'host:="127.0.0.1"', "fps:=10.0"} <= set(arguments)
    assert cli.main(["watch", "--port", "70000"]) == 1 and len(made) == 1


# The watcher node


class Viewer:
    """A browser without a screen: asks for one picture after the other until closed."""

    def __init__(self, process: Any) -> None:
        self.process = process
        self.url = re.findall(r"open (\S+)", process.text())[0]
        self.pictures: list[bytes] = []
        self.closed = False
        threading.Thread(target=self.look, daemon=True).start()

    def look(self) -> None:
        number = "0"
        while not self.closed:
            try:
                status, headers, body = get(self.url, f"/overlay.jpg?after={number}")
            except (OSError, http.client.HTTPException):
                time.sleep(0.1)
                continue
            if status == 200:
                number = headers["X-Number"]
                self.pictures.append(body)

    def told(self, words: str) -> bool:
        """Whether the page soon says these words about missing pictures."""
        return wait(lambda: words in state(self.url).get("problem", ""))


@pytest.fixture
def view(start):
    """view(parameters...) -> Viewer of a new watcher's page."""
    viewers: list[Viewer] = []

    def open_viewer(**parameters: Any) -> Viewer:
        process = start("watcher", port=0, **parameters)
        assert process.logged("open http"), process.text()
        viewers.append(Viewer(process))
        return viewers[-1]

    yield open_viewer
    for viewer in viewers:
        viewer.closed = True


OUTPUTS = {
    f"~/{name}": f"/segmentation/{name}" for name in ("overlay", "consistency", "label_info_json", "mask")
}


@pytest.mark.ros
def test_pictures_classes_and_figures_of_a_running_node(start, view, client):
    from sensor_msgs.msg import Image

    viewer = view(width=32)
    start(constant_network=True, autostart=True, remaps=OUTPUTS, overlay_alpha=0.0, image_timeout=0.2)
    assert viewer.told("no publisher on /image"), "the node's own words"
    masks = client.collect(Image, "/segmentation/mask")
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32] = (200, 30, 90)
    for number in range(1, 300):
        client.publish(image(pixels, stamp=number * 0.1))
        client.spin(0.03)
        if len(viewer.pictures) >= 5:
            break
    picture = cv2.imdecode(np.frombuffer(viewer.pictures[4], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert picture.shape == (24, 32, 3), "no wider than `width`"
    assert np.abs(picture[12, 8].astype(int) - (200, 30, 90)).max() < 12 and picture[12, 26].max() < 12
    assert wait(lambda: len(state(viewer.url)["samples"]) >= len(masks) > 4)
    facts = state(viewer.url)
    assert facts["node"] == "/segment" and facts["problem"] == ""
    assert len(facts["classes"]) == 8 and set(facts["classes"][0]) == {"id", "name", "color"}
    assert {"label_change", "keyframe", "keyframe_age", "node_ms"} <= set(facts["samples"][-1][1])
    assert {"lifecycle", "input", "network", "consistency"} == {line["name"] for line in facts["lines"]}
    assert viewer.process.stop() == 0


@pytest.mark.slow
@pytest.mark.ros
def test_only_a_browser_makes_the_node_draw(start, client):
    watcher = start("watcher", port=0)
    start(constant_network=True, autostart=True, remaps=OUTPUTS)
    topic = "/segmentation/overlay"
    assert watcher.logged("open http") and client.until(lambda: client.node.count_publishers(topic))
    client.spin(0.5)
    assert client.node.count_subscribers(topic) == 0
    viewer = Viewer(watcher)
    assert client.until(lambda: client.node.count_subscribers(topic) == 1)
    viewer.closed = True


@pytest.mark.slow
@pytest.mark.ros
def test_what_is_said_of_a_node_that_is_absent_elsewhere_or_ended(start, view):
    robot = {"__ns": "/robot1"}
    outputs = {**robot, **{old: new.lstrip("/") for old, new in OUTPUTS.items()}}
    viewer, stranger = view(remaps=robot), view()
    assert viewer.told("nothing is heard of the node /robot1/segment: start it")
    first = start(constant_network=True, remaps=outputs, image_timeout=0.2)
    assert viewer.told("the node is unconfigured: ros2 lifecycle set /robot1/segment configure")
    assert first.stop() == 0
    assert viewer.told("/robot1/segment has ended")
    start(constant_network=True, autostart=True, remaps=outputs, image_timeout=0.2)
    assert viewer.told("no publisher on /robot1/image")
    assert stranger.told("another namespace (/robot1): --namespace")


@pytest.mark.ros
def test_a_port_in_use_ends_the_watcher_with_one_line(start, server):
    process = start("watcher", port=server().server_address[1])
    assert process.child.wait(PATIENCE) == 1
    assert "cannot listen on 127.0.0.1" in process.text() and "Traceback" not in process.text()


# The page in a browser

PAGE = """() => ({
    problem: document.getElementById("problem").hidden ? "" : document.getElementById("problem").textContent,
    legend: [...document.querySelectorAll("#legend li")].map(item => [item.textContent,
        getComputedStyle(item.firstElementChild).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)]),
    titles: [...document.querySelectorAll(".plot h2")].map(item => item.firstChild.textContent),
    lines: [...document.querySelectorAll("#lines li")].map(item => item.textContent),
    node: document.getElementById("node").textContent,
})"""
CANVAS = """index => {
    const canvas = document.querySelectorAll(".plot canvas")[index];
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const colours = new Set();
    for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200) colours.add(data.slice(i, i + 3).join());
    return [...colours].map(text => text.split(",").map(Number));
}"""


@pytest.mark.slow
@pytest.mark.ros
def test_the_page_in_chromium_beside_the_real_network(start, page, tmp_path):
    """Rendered street frames → replay → segment with its default model → watcher → Chromium.

    The screenshot is written to $VSS_SCREENSHOT if that is set: docs/watch.png.
    """
    from playwright.sync_api import expect
    from vss_ros.data.street.street import Street
    from vss_ros.networks.card import read_card

    street = Street(seed=3, size=(360, 480), fps=5)
    for number in range(30):
        cv2.imwrite(str(tmp_path / f"{number:03}.png"), street.frame(number)[0][..., ::-1])
    # Small and in torch: it starts soon and keeps up on a busy machine; a late frame is no gap.
    network = {"backend": "torch", "height": 192, "width": 256, "max_gap": 60.0}
    segment = start(autostart=True, remaps=OUTPUTS, **network)
    start("replay", source=str(tmp_path), fps=5.0, loop=True)
    watcher = start("watcher", port=0)
    assert watcher.logged("open http")
    url = re.findall(r"open (\S+)", watcher.text())[0]
    page.goto(url)
    card = read_card("street")[0]
    problem, plots = page.locator("#problem"), page.locator(".plot canvas")
    expect(page.locator("#legend li")).to_have_count(len(card.classes), timeout=180_000)
    expect(plots).to_have_count(4, timeout=60_000)
    pictures = set()
    for _ in range(40):
        pictures.add(hash(page.locator("#overlay").screenshot()))
        page.wait_for_timeout(150)
        if len(pictures) >= 4:
            break
    assert len(pictures) >= 4, "the overlay moves"
    expect(problem).to_be_hidden(timeout=30_000)
    seen = page.evaluate(PAGE)
    assert seen["legend"] == [[name, list(rgb)] for name, rgb in zip(card.classes, card.palette, strict=True)]
    assert seen["node"] == "/segment" and "input" in "".join(seen["lines"])
    titles = ["Latency, ms", "Keyframe age, frames", "Labels that change, share", "Drift from the keyframe"]
    assert seen["titles"] == titles
    for index, title in enumerate(titles):
        blue = [c for c in page.evaluate(CANVAS, index) if c[2] > 150 and c[2] - c[0] > 80]
        assert blue, f"the line of {title} is drawn"
    page.locator("#more summary").click()
    page.get_by_label("Time per stage, ms").check()
    expect(plots).to_have_count(5)
    page.get_by_label("Time per stage, ms").uncheck()
    page.locator("#more summary").click()
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(background) != light
    expect(plots).to_have_count(4)
    page.emulate_media(color_scheme="light")
    if "VSS_SCREENSHOT" in os.environ:
        page.set_viewport_size({"width": 1000, "height": 760})
        page.wait_for_timeout(15_000)  # fills the plots
        page.screenshot(path=os.environ["VSS_SCREENSHOT"])
    assert page.problems == []
    # The node goes and comes back; then the server.
    assert segment.stop() == 0
    expect(problem).to_contain_text("/segment has ended", timeout=30_000)
    assert page.problems == []
    port = urlsplit(url).port
    assert watcher.stop() == 0
    expect(problem).to_contain_text("No answer from vss watch", timeout=30_000)
    start("watcher", port=port)
    start(autostart=True, remaps=OUTPUTS, constant_network=True)
    expect(problem).to_be_hidden(timeout=180_000)
    assert all(
        "ERR_CONNECTION_REFUSED" in line or "state.json" in line or "overlay.jpg" in line
        for line in page.problems
    )
