"""When the deep layers run: chosen while inactive, said in ~/consistency and /diagnostics, with the answers' age."""

from __future__ import annotations

import time

import numpy as np
import pytest
from fixtures.ros import client, image, latest, start, values
from fixtures.segment import messages

pytestmark = pytest.mark.ros

# The network takes 0.3 s a frame, and for ever once a file is there.
SLOW = """
import time
from pathlib import Path
from vss_ros.backends.torch_cpu import TorchBackend
encode = TorchBackend.encode
def slow(backend, frame):
    time.sleep(10000 if Path({path!r}).exists() else 0.3)
    return encode(backend, frame)
TorchBackend.encode = slow
"""


def stream(client, publisher, count, begin=0.0):
    for _ in range(count):
        publisher.publish(image(np.full((64, 96, 3), 90, np.uint8), stamp=time.time()))
        client.spin(0.04)


def test_beside_answers_every_frame_and_says_how_old_the_networks_answer_is(
    start, client, messages, tiny_card, tmp_path
):
    hang = tmp_path / "hang"
    node = start(
        patch=SLOW.format(path=str(hang)),
        model=str(tiny_card),
        backend="torch",
        schedule="beside",
        autostart=True,
    )
    consistency = client.collect(messages.DiagnosticArray, "/segment/consistency")
    reports = client.collect(messages.DiagnosticArray, "/diagnostics")
    publisher = client.publisher(messages.Image)
    client.settle(publisher)
    stream(client, publisher, 10)  # the first frame waits for the network
    before = len(consistency)
    stream(client, publisher, 50)
    assert len(consistency) - before >= 40, node.text()
    ages = [float(values(m.status[0])["network_age_ms"]) for m in consistency[before:]]
    assert 250 < np.median(ages) < 2000
    assert {values(m.status[0])["schedule"] for m in consistency} == {"beside"}
    figures = values(latest(reports, "network"))
    assert figures["schedule"] == "beside" and float(figures["network_age_ms"]) > 250
    assert "schedule beside" in node.text()
    hang.touch()
    stream(client, publisher, 100)
    assert client.until(lambda: latest(reports, "network").level == b"\x02")
    assert "masks are moved from an answer" in latest(reports, "network").message
    assert client.change("deactivate") and client.state() == "inactive", "a hang beside blocks nothing"
    assert node.stop() == 0


def test_a_schedule_is_chosen_while_inactive(start, client, messages, tiny_card):
    node = start(model=str(tiny_card), backend="torch", schedule="at_once", interval=4)
    consistency = client.collect(messages.DiagnosticArray, "/segment/consistency")
    assert client.change("configure") and client.change("activate")
    assert "deactivate first" in client.set(schedule="beside")
    for schedule in ("at_once", "parts", "beside"):
        assert client.change("deactivate")
        assert client.set(schedule=schedule) == ""
        assert client.change("activate"), node.text()
        consistency.clear()
        for number in range(6):
            client.publish(image(np.full((64, 96, 3), 90, np.uint8), stamp=10 + number / 10))
            assert client.until(lambda n=number: len(consistency) > n), node.text()
        assert {values(m.status[0])["schedule"] for m in consistency} == {schedule}
    assert node.stop() == 0 and "Traceback" not in node.text()


def test_auto_is_measured_and_says_why(start, client, messages, tiny_card):
    node = start(model=str(tiny_card), backend="torch", schedule="auto", rate=0.2, autostart=True)
    assert node.logged("schedule at_once: a keyframe takes"), node.text()
    assert node.logged("active: ")
