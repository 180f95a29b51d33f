"""A runtime that hangs while a model loads: everything answers, and it can be given up."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.ros import client, image, latest, start
from fixtures.segment import messages

pytestmark = [pytest.mark.ros, pytest.mark.slow]

HANGS = """
import threading
from vss_ros.nodes.segment import loading, network
loading.LATE = {late}
answer, calls = network.make_streams, []
def make_streams(config):
    calls.append(config)
    print("preparing", config.interval, flush=True)
    if len(calls) == 1:
        threading.Event().wait()
    return answer(config)
network.make_streams = make_streams
"""


class Request:
    """A transition asked for, whose answer is not waited for."""

    def __init__(self, client, transition):
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        self.service = client.node.create_client(ChangeState, "/segment/change_state")
        assert client.until(self.service.service_is_ready)
        number = getattr(Transition, f"TRANSITION_{transition.upper()}")
        self.future = self.service.call_async(ChangeState.Request(transition=Transition(id=number)))

    def answer(self, client):
        assert client.until(self.future.done)
        return self.future.result().success


def runs(client, messages, node):
    masks = client.collect(messages.Image, "/segment/mask")
    assert client.change("activate"), node.text()
    client.publish(image(np.zeros((8, 8, 3), np.uint8), stamp=1.0))
    return client.until(lambda: masks)


@pytest.mark.parametrize("way", ["cleanup", "configure"])
def test_services_and_diagnostics_answer_and_the_load_is_given_up(start, client, messages, way):
    node = start(patch=HANGS.format(late=0.5 if way == "configure" else 1000), constant_network=True)
    reports = client.collect(messages.DiagnosticArray, "/diagnostics")
    first = Request(client, "configure")
    assert node.logged("preparing")
    assert client.state() == "unconfigured"
    assert "out of range" in client.set(interval=-1) and client.set(interval=7) == ""
    level = b"\x02" if way == "configure" else b"\x00"
    assert client.until(lambda: "loading street for" in getattr(latest(reports, "lifecycle"), "message", ""))
    assert client.until(lambda: latest(reports, "lifecycle").level == level), latest(reports, "lifecycle")
    assert not first.future.done()
    if way == "cleanup":
        assert not client.change("configure"), "one at a time"
        assert client.change("cleanup") and not first.answer(client)
        assert client.state() == "unconfigured"
    assert client.change("configure"), node.text()
    assert not first.answer(client), "it was given up for the second"
    assert "given up: loading street" in node.text() and "preparing 7" in node.text()
    assert runs(client, messages, node), node.text()
    assert node.stop() == 0 and "Traceback" not in node.text()


def test_shutdown_gives_it_up_too(start, client, messages):
    node = start(patch=HANGS.format(late=1000), constant_network=True)
    first = Request(client, "configure")
    assert node.logged("preparing")
    assert client.change("unconfigured_shutdown") and not first.answer(client)
    assert client.state() == "finalized"
    assert node.stop() == 0


def test_a_start_by_itself_that_hangs(start, client, messages):
    """autostart: diagnostics come, a signal ends it."""
    node = start(patch=HANGS.format(late=0.5), constant_network=True, autostart=True)
    reports = client.collect(messages.DiagnosticArray, "/diagnostics")
    assert client.until(lambda: "to give it up" in getattr(latest(reports, "lifecycle"), "message", ""))
    assert node.stop() == 0 and "Traceback" not in node.text()


def test_parameters_that_change_while_it_loads_count(start, client, messages):
    slow = HANGS.replace("threading.Event().wait()", "threading.Event().wait(3)")
    node = start(patch=slow.format(late=1000), constant_network=True, interval=3)
    first = Request(client, "configure")
    assert node.logged("preparing 3")
    assert client.set(interval=9) == ""
    assert first.answer(client) and "preparing 9" in node.text()
    assert runs(client, messages, node) and node.stop() == 0


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt()", "MemoryError('4 GB')"])
def test_an_exit_while_it_loads_fails_the_transition(start, client, messages, error):
    patch = HANGS.replace("threading.Event().wait()", f"raise {error}").format(late=1000)
    node = start(patch=patch, constant_network=True)
    assert not client.change("configure") and error.partition("(")[0] in node.text()
    assert client.change("configure") and runs(client, messages, node)
    assert node.stop() == 0


def test_another_schedule_is_loaded_beside_the_services(start, client, messages):
    node = start(
        patch=HANGS.format(late=1000).replace("len(calls) == 1", "len(calls) == 2"), constant_network=True
    )
    assert client.change("configure") and client.set(schedule="beside") == ""
    first = Request(client, "activate")
    assert client.until(lambda: node.text().count("preparing") == 2)
    assert client.state() == "inactive"
    assert client.change("cleanup") and not first.answer(client)
    assert client.change("configure") and runs(client, messages, node), node.text()
    assert node.stop() == 0
