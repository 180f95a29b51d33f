"""What the launch files start, on real processes; with the real `ros2 launch` where there is one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml
from fixtures.counting import counting_card
from fixtures.launch import PROFILES, Action, Loop, end, launch, of_kind, parameters_of
from fixtures.paths import ROOT
from fixtures.ros import PATIENCE, client, image, start, wait
from vss_ros import cli
from vss_ros.nodes.processes import Chain


@pytest.mark.ros
def test_the_launched_node_runs(launch, client, tmp_path):
    """The command line that launch_ros makes of the action: a YAML file for the dictionary, -r for remaps."""
    from sensor_msgs.msg import Image

    _, actions = launch("segment.launch.py", image_topic="/front/image", namespace="robot1")
    [node] = of_kind(actions, "Node")
    file, values = node.kwargs["parameters"][0], parameters_of(node)
    own = tmp_path / "launch_params.yaml"
    own.write_text(yaml.safe_dump({"/**": {"ros__parameters": {**values, "constant_network": True}}}))
    command = [sys.executable, "-m", "vss_ros.nodes.run", node.kwargs["executable"], "--ros-args"]
    command += ["-r", f"__node:={node.kwargs['name']}", "-r", f"__ns:=/{node.kwargs['namespace']}"]
    command += ["--params-file", file, "--params-file", str(own)]
    for old, new in node.kwargs["remappings"]:
        command += ["-r", f"{old}:={new}"]
    masks = client.collect(Image, "/robot1/segmentation/mask")
    with (tmp_path / "log").open("w") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        assert client.active("/robot1/segment"), (tmp_path / "log").read_text()
        client.publish(image(np.zeros((8, 8, 3), np.uint8)), "/front/image")
        assert client.until(lambda: masks)
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()


@pytest.mark.ros
@pytest.mark.slow
def test_the_launched_evaluation(launch, tiny_card, tmp_path):
    """Its processes with the very parameters and remaps of the launch file, then its scoring command."""
    for index in range(20):
        picture = np.full((72, 96, 3), 90, np.uint8)
        picture[20:50, index * 3 : index * 3 + 30] = 220
        (tmp_path / "clip").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "clip" / f"{index}.png"), picture)
    values = {"bag": str(tmp_path / "clip"), "report": str(tmp_path / "report"), "rate": "0.3"}
    _, actions = launch("evaluate.launch.py", model=str(tiny_card), backend="torch", **values)
    recorder, replay = of_kind(actions, "Node")
    included = dict(of_kind(actions, "IncludeLaunchDescription")[0].kwargs["launch_arguments"])
    given = {"model": str(tiny_card), "backend": "torch", **included}
    (segment,) = of_kind(launch("segment.launch.py", **given)[1], "Node")
    with Chain(tmp_path / "logs") as chain:
        for node in (segment, recorder, replay):
            given = parameters_of(node) if node is segment else node.kwargs["parameters"][0]
            parameters = {name: value for name, value in given.items() if value != ""}
            chain.start(node.kwargs["executable"], parameters, dict(node.kwargs["remappings"]))
        assert wait(lambda: chain.ended("recorder") and chain.ended("replay"), 120), chain.tail(
            "segment", "recorder", "replay"
        )
        assert [chain.running[node].poll() for node in ("recorder", "replay")] == [0, 0]
    (score,) = end(actions, recorder, 0)
    assert cli.main(score.kwargs["cmd"][1:]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    offline, live = report["runs"]
    assert (offline["run"], live["run"]) == ("tiny torch", "tiny torch live")
    assert live["headline"]["frames"] == 20 and live["headline"]["dropped"] <= 5
    assert live["headline"]["delay_ms"] > 0 and 0 <= live["headline"]["differs"] <= 1
    assert len(live["notes"]) == 4 and "frames got no mask" in live["notes"][0]


needs_ros2 = pytest.mark.skipif(
    shutil.which("ros2") is None, reason="needs a ROS 2 installation with the ros2 command"
)


def ros2_launch(*arguments: str) -> subprocess.Popen:
    command = ["ros2", "launch", "vss_ros", *arguments]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def launched(*arguments: str):
    """A launch file that runs; Ctrl-C ends it with exit code 0."""
    child = ros2_launch(*arguments)
    try:
        yield
    finally:
        os.killpg(child.pid, signal.SIGINT)
        assert wait(lambda: child.poll() is not None)
    assert child.returncode == 0


@pytest.mark.ros
@needs_ros2
def test_ros2_launch_until_ctrl_c(client, tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text("/**: {ros__parameters: {constant_network: true}}")
    with launched("segment.launch.py", "namespace:=robot2", f"params_file:={params}", "watch:=True"):
        assert client.active("/robot2/segment")


@pytest.mark.ros
@needs_ros2
def test_ros2_launch_counts(client, tmp_path):
    from std_msgs.msg import UInt32

    card = counting_card(tmp_path)
    counts = client.collect(UInt32, "/robot3/counting/count")
    words = (
        "namespace:=robot3",
        f"model:={card}",
        "backend:=torch",
        "patches:=1",
        "image_topic:=/front/image",
    )
    with launched("count.launch.py", *words):
        assert client.active("/robot3/count")
        client.publish(image(np.full((70, 100, 3), 90, np.uint8)), "/front/image")
        assert client.until(lambda: counts) and counts[0].data > 0


@pytest.mark.ros
@needs_ros2
@pytest.mark.parametrize(
    "arguments",
    [
        ("segment.launch.py", "params_file:=/nowhere.yaml"),
        ("segment.launch.py", "overlay_alpha:=7", "watch:=true", "watch_port:=0"),
        ("demo.launch.py", "bagfile:=/nowhere", "constant_network:=true"),
        ("evaluate.launch.py", "bag:=/nowhere", "constant_network:=true"),
        ("evaluate.launch.py", "model:=nowhere"),
        ("count.launch.py", "score:=7"),
    ],
)
def test_ros2_launch_fails_at_once(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert ros2_launch(*arguments).wait(PATIENCE) == 1
