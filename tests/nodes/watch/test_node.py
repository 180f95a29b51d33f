"""The watcher node beside a real segment node, and where its token may be read."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from fixtures.ros import PATIENCE, client, image, start, wait
from fixtures.watch import OUTPUTS, Viewer, get, server, state, view
from vss_ros import cli
from vss_ros.config import VssError
from vss_ros.nodes.watch.token import find_token, reveal


def test_the_command_makes_ros_arguments(monkeypatch):
    from vss_ros.nodes import run

    made: list[list[str]] = []
    monkeypatch.setattr("vss_ros.nodes.watch.command.require_ros", lambda: None)
    monkeypatch.setattr(run, "watcher", lambda arguments: made.append(arguments) or 0)
    assert cli.main(["watch", "--namespace", "/robot1/", "--port", "9000", "--token-file", "a b"]) == 0
    [arguments] = made
    assert arguments[:3] == ["--ros-args", "-r", "__ns:=/robot1"]
    assert {'token_file:="a b"', "port:=9000", 'host:="127.0.0.1"', "fps:=10.0"} <= set(arguments)
    assert cli.main(["watch", "--port", "70000"]) == 2 and len(made) == 1


def test_the_token_is_read_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("VSS_WATCH_TOKEN", raising=False)
    assert find_token("") == ""
    monkeypatch.setenv("VSS_WATCH_TOKEN", "of-the-environment")
    assert find_token("") == "of-the-environment"
    (tmp_path / "secret").write_text("of-the-file-16-long\n")
    assert find_token(str(tmp_path / "secret")) == "of-the-file-16-long"
    for text in ("short", "", "sixteen with blanks!", "x" * 201):
        (tmp_path / "secret").write_text(text)
        with pytest.raises(VssError, match="secret: expected a token"):
            find_token(str(tmp_path / "secret"))
    with pytest.raises(VssError, match="no plain file"):
        find_token("/dev/zero")


def test_the_token_is_shown_on_a_terminal_else_left_in_a_file_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VSS_CACHE", str(tmp_path / "cache"))
    assert reveal("http://x/", "", 1) == "open http://x/"
    said = reveal("http://x/", "secret", 1)
    path = Path(said.split()[-1])
    assert "secret" not in said + capsys.readouterr().err
    assert path.read_text() == "http://x/?token=secret\n" and stat.S_IMODE(path.stat().st_mode) == 0o600
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert "secret" not in reveal("http://x/", "secret", 1)
    assert capsys.readouterr().err == "open http://x/?token=secret\n"


@pytest.mark.ros
def test_pictures_classes_and_figures_of_a_running_node(start, view, client):
    from sensor_msgs.msg import Image

    viewer = view(width=32)
    start(constant_network=True, autostart=True, remaps=OUTPUTS, image_timeout=0.2)
    assert viewer.told("no publisher on /image"), "the node's own words"
    masks = client.collect(Image, "/segmentation/mask")
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32] = (200, 30, 90)
    for number in range(1, 300):
        client.publish(image(pixels, stamp=number * 0.1))
        client.spin(0.03)
        if len(viewer.pictures) >= 5:
            break
    picture, labels = viewer.pictures[4]
    assert picture.shape == (24, 32, 3), "no wider than `width`"
    assert labels.shape[1] <= 32 and set(np.unique(labels)) <= set(range(8))
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
    topic = "/segmentation/image"
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
    assert stranger.told("no publisher on /robot1/image"), "the only node is meant"
    start(constant_network=True, autostart=True, remaps={"__ns": "/robot2"})
    assert view().told("there is /robot1/segment, /robot2/segment: --namespace, --node")


@pytest.mark.ros
def test_a_port_in_use_ends_the_watcher_with_one_line(start, server):
    process = start("watcher", port=server().server_address[1])
    assert process.child.wait(PATIENCE) == 1
    assert "cannot listen on 127.0.0.1" in process.text() and "Traceback" not in process.text()


@pytest.mark.ros
def test_the_token_is_no_parameter_and_in_no_log(start, client, tmp_path, monkeypatch):
    from rcl_interfaces.msg import Log
    from rcl_interfaces.srv import ListParameters

    monkeypatch.setenv("VSS_CACHE", str(tmp_path / "cache"))
    logged = client.collect(Log, "/rosout", latched=True)
    watcher = start("watcher", port=0, host="0.0.0.0")
    assert watcher.logged("the address with its token is in")
    address = Path(re.findall(r"is in (\S+)", watcher.text())[0]).read_text().strip()
    token = address.partition("token=")[2]
    assert len(token) >= 20 and get(address, f"/?token={token}")[0] == 200
    names = client.call(ListParameters, "/watcher/list_parameters", ListParameters.Request()).result.names
    assert "token_file" in names and "token" not in names
    assert client.until(lambda: any("serves http" in line.msg for line in logged))
    assert not any(token in line.msg for line in logged) and token not in watcher.text()
    assert token.encode() not in Path(f"/proc/{watcher.child.pid}/cmdline").read_bytes()


@pytest.mark.slow
@pytest.mark.ros
def test_several_cameras_of_a_node_under_its_own_name(start, view, client):
    from sensor_msgs.msg import Image

    start(constant_network=True, autostart=True, cameras="['front', 'left']")
    masks = client.collect(Image, "/segment/left/mask")
    viewer = view("left")
    assert wait(lambda: state(viewer.url).get("cameras") == ["front", "left"])
    pixels = np.full((48, 64, 3), 90, np.uint8)
    for number in range(1, 300):
        client.publish(image(pixels, stamp=number * 0.1), "/left/image")
        client.spin(0.03)
        if viewer.pictures:
            break
    assert masks and viewer.pictures
    facts = state(viewer.url, camera="left")
    assert facts["samples"] and not state(viewer.url, camera="front")["samples"]
    assert any(line["name"].startswith("left: ") for line in facts["lines"])
