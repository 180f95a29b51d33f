"""The layouts for rviz, Foxglove and PlotJuggler name topics, types and figures that the real node publishes."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from fixtures.paths import ROOT
from fixtures.recordings import evaluate, record, results
from fixtures.ros import client, image, start
from vss_ros.media.bags import BagReader
from vss_ros.media.decode import decode

CAMERA = "/camera/image_raw"  # the launch file's default
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
FIGURE = re.compile(r'(/[\w/]+)\.status\[:\]\.values\[:\]\{key=="(\w+)"\}\.value')


def rviz_displays() -> list[dict[str, Any]]:
    view = yaml.safe_load((ROOT / "rviz" / "segment.rviz").read_text())
    return view["Visualization Manager"]["Displays"]


def foxglove() -> dict[str, Any]:
    return json.loads((ROOT / "config" / "foxglove.json").read_text())


def plotjuggler() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "config" / "plotjuggler.xml").getroot()


def panels(node: Any) -> list[str]:
    """Ids in Foxglove's layout, a binary tree of splits, and in its tabs."""
    if isinstance(node, str):
        tabs = foxglove()["configById"][node].get("tabs", ())
        return [node, *(panel for tab in tabs for panel in panels(tab["layout"]))]
    assert set(node) == {"direction", "first", "second", "splitPercentage"}
    assert node["direction"] in ("row", "column") and 0 < node["splitPercentage"] < 100
    return [*panels(node["first"]), *panels(node["second"])]


def figures_shown() -> set[tuple[str, str]]:
    """(topic, key) of each Foxglove plot."""
    plots = [config for name, config in foxglove()["configById"].items() if name.startswith("Plot!")]
    matches = [FIGURE.fullmatch(path["value"]) for plot in plots for path in plot["paths"]]
    assert matches and all(matches)
    return {(match[1], match[2]) for match in matches if match}


def curves() -> set[str]:
    return {curve.get("name", "") for curve in plotjuggler().iter("curve")}


def test_foxglove_layout_is_whole():
    layout = foxglove()
    assert set(layout) == {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}
    shown = panels(layout["layout"])
    assert sorted(shown) == sorted(layout["configById"]), "each panel once, with a configuration"
    assert {name.partition("!")[0] for name in shown} == {"Image", "Plot", "DiagnosticSummary", "Tab"}


def test_plotjuggler_layout_is_whole():
    root = plotjuggler()
    assert root.tag == "root"
    for splitter in root.iter("DockSplitter"):
        count = int(splitter.get("count", 0))
        sizes = [float(size) for size in splitter.get("sizes", "").split(";")]
        assert len(splitter) == len(sizes) == count and sum(sizes) == pytest.approx(1)
    assert all(plot.get("mode") == "TimeSeries" for plot in root.iter("plot"))
    [streamer] = root.iter("previouslyLoaded_Streamer")
    [plugin] = root.iter("plugin")
    assert streamer.get("name") == plugin.get("ID") == "ROS2 Topic Subscriber"
    assert {item.tag for item in plugin} >= {"selected_topics", "use_header_stamp", "max_array_size"}


def test_foxglove_and_plotjuggler_show_the_same_figures():
    assert {key for _, key in figures_shown()} == {name.rpartition("/")[2] for name in curves()}


def first_tab() -> str:
    """The topic of the picture that is in sight when the layout is opened."""
    configs = foxglove()["configById"]
    [tabs] = [config for name, config in configs.items() if name.startswith("Tab!")]
    return configs[tabs["tabs"][tabs["activeTabIdx"]]["layout"]]["imageMode"]["imageTopic"]


def test_foxglove_layout_shows_a_bag_of_vss_evaluate(evaluate, tmp_path):
    assert evaluate("--bag", record(tmp_path / "drive", compressed=False), "--topic", "/camera/image") == 0
    [name] = results(tmp_path / "out")
    with BagReader(tmp_path / "out" / name / "bag") as bag:
        assert bag.topics[first_tab()][0] == COMPRESSED
        keys = {
            (topic, item.key)
            for topic, _, message in bag.messages(["/segmentation/consistency"])
            for item in message.status[0].values
        }
    assert figures_shown() <= keys


@pytest.mark.slow
@pytest.mark.ros
def test_every_topic_and_figure_exists(start, client, tiny_card, rng):
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import CompressedImage

    names = (
        "mask",
        "overlay",
        "overlay/compressed",
        "color_mask",
        "flicker",
        "consistency",
        "label_info_json",
    )
    start(
        remaps={"image": CAMERA, **{f"~/{name}": f"/segmentation/{name}" for name in names}},
        model=str(tiny_card),
        backend="torch",
        autostart=True,
        max_gap=60.0,
        schedule="at_once",  # beside measures no drift of features
    )
    assert client.active()
    node = client.node
    assert client.until(lambda: node.get_publisher_names_and_types_by_node("segment", "/"))
    types = dict(node.get_publisher_names_and_types_by_node("segment", "/"))
    camera = dict(node.get_subscriber_names_and_types_by_node("segment", "/"))
    types[CAMERA] = camera[CAMERA]

    displays = rviz_displays()
    assert {display["Name"] for display in displays} == {"Camera", "Overlay", "Colour mask", "Flicker"}
    for display in displays:
        topic = display["Topic"]["Value"]
        assert types[topic] == [IMAGE] and display["Class"] == "rviz_default_plugins/Image"
        offered = node.get_publishers_info_by_topic(topic)
        assert all(info.qos_profile.durability.name == "VOLATILE" for info in offered)
        assert display["Topic"]["Durability Policy"] == "Volatile"
        wanted = "Best Effort" if topic == CAMERA else "Reliable"  # a camera may be best effort
        assert display["Topic"]["Reliability Policy"] == wanted
        assert topic == CAMERA or all(info.qos_profile.reliability.name == "RELIABLE" for info in offered)

    for name, config in foxglove()["configById"].items():
        if name.startswith("Image!"):
            topic = config["imageMode"]["imageTopic"]
            assert types[topic] == [COMPRESSED if topic.endswith("/compressed") else IMAGE]
        elif name.startswith("DiagnosticSummary!"):
            assert types[config["topicToRender"]] == [DIAGNOSTICS]
    for topic in {topic for topic, _ in figures_shown()}:
        assert types[topic] == [DIAGNOSTICS]
    [selected] = plotjuggler().iter("selected_topics")
    assert {types[topic][0] for topic in selected.get("value", "").split(";")} == {DIAGNOSTICS}

    consistency = client.collect(DiagnosticArray, "/segmentation/consistency")
    pictures = client.collect(CompressedImage, first_tab())
    pixels = cv2.GaussianBlur(rng.integers(0, 255, (64, 120, 3), np.uint8), (0, 0), 3)
    # A picture that moves: noise anew each time would be eight cuts, all keyframes.
    for number in range(1, 9):
        shown = np.ascontiguousarray(pixels[:, number : number + 96])
        client.publish(image(shown, stamp=number * 0.1), CAMERA)
        assert client.until(lambda count=number: len(consistency) >= count)
    keys, series = set(), set()
    for status in (status for message in consistency for status in message.status):
        for item in status.values:
            try:
                float(item.value)
            except ValueError:
                continue
            keys.add(("/segmentation/consistency", item.key))
            # How PlotJuggler's parser of DiagnosticArray names a series.
            series.add(f"/segmentation/consistency/{status.hardware_id}/{status.name}/{item.key}")
    assert figures_shown() <= keys
    assert curves() <= series
    assert client.until(lambda: pictures) and decode(pictures[0]).shape == (64, 96, 3)
