"""config/sros2/policy.xml allows each node what it uses while it runs, and next to nothing else."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import defaultdict

import pytest
from fixtures.counting import counting_card
from fixtures.paths import ROOT
from fixtures.recordings import record
from fixtures.ros import client, start, wait
from fixtures.watch import OUTPUTS, Viewer
from vss_ros.node_config import COUNT_TOPICS, SEGMENT_TOPICS

POLICY = ROOT / "config" / "sros2" / "policy.xml"
RIGHTS = ("publish", "subscribe", "reply", "request")
CAMERA = {"image": "/camera/image_raw", "camera_info": "/camera/camera_info"}
ANSWERS = {f"~/{name}": f"/segmentation/{name}" for name in SEGMENT_TOPICS}
READ = {name.removeprefix("~/"): topic for name, topic in ANSWERS.items()}
NODES = ("segment", "count", "replay", "watcher", "recorder", "cloud")
# Used only with sim time, vision_msgs, bondpy, compressed images, or a reader that is not here.
SELDOM = {
    "/clock",
    "/segmentation/label_info",
    "/bond",
    "/camera/image_raw/compressed",
    "/segmentation/confidence",
}


def rights() -> dict[str, dict[str, set[str]]]:
    """node → right → names."""
    found: dict = {}
    for enclave in ElementTree.parse(POLICY).getroot().iter("enclave"):
        node = enclave.get("path").removeprefix("/vss/")
        assert [p.get("node") for p in enclave.iter("profile")] == [node], "an enclave holds one node"
        found[node] = defaultdict(set)
        for group in (item for profile in enclave.iter("profile") for item in profile):
            for right in RIGHTS:
                if group.get(right) == "ALLOW":
                    found[node][right] |= {item.text for item in group}
            assert "DENY" not in group.attrib.values(), "what is not allowed is denied"
    return found


def test_only_an_operator_may_change_states_and_parameters():
    allowed = rights()
    asked = {node: of["request"] for node, of in allowed.items() if of["request"]}
    assert set(allowed) == {*NODES, "operator"} and set(asked) == {"operator"}
    assert {"/segment/change_state", "/count/change_state", "/segment/set_parameters"} <= asked["operator"]
    assert (
        not allowed["operator"]["publish"] - {"/rosout", "/parameter_events"}
        and not allowed["operator"]["reply"]
    )
    assert not any("*" in name for of in allowed.values() for names in of.values() for name in names)
    for name in ("mask", "label_info_json"):
        may = [node for node, of in allowed.items() if f"/segmentation/{name}" in of["publish"]]
        assert may == ["segment"], f"nobody else can forge {name}"


@pytest.mark.slow
@pytest.mark.ros
def test_nodes_use_what_they_may_and_little_less(start, client, tmp_path):
    from sensor_msgs.msg import PointCloud2

    bag = record(tmp_path / "bag", compressed=False, topic="/camera/image_raw", count=4)
    start("segment", constant_network=True, autostart=True, remaps={**CAMERA, **ANSWERS})
    counts = {f"~/{name}": f"/counting/{name}" for name in COUNT_TOPICS}
    start(
        "count",
        model=str(counting_card(tmp_path)),
        backend="torch",
        autostart=True,
        remaps={**CAMERA, **counts},
    )
    start("replay", source=str(bag), topic="/camera/image_raw", loop=True, remaps=CAMERA)
    watcher = start("watcher", port=0)
    start("recorder", out=str(tmp_path / "out"), remaps=READ)
    start("cloud", remaps={**READ, "depth": "/camera/depth/image_raw", "points": "/segmentation/points"})
    client.collect(PointCloud2, "/segmentation/points")
    assert watcher.logged("open http")
    viewer = Viewer(watcher)
    node = client.node
    reads = {
        "publish": node.get_publisher_names_and_types_by_node,
        "subscribe": node.get_subscriber_names_and_types_by_node,
    }
    reads |= {
        "reply": node.get_service_names_and_types_by_node,
        "request": node.get_client_names_and_types_by_node,
    }
    assert client.until(lambda: set(NODES) <= set(node.get_node_names()))
    assert client.until(lambda: "/segmentation/mask" in dict(reads["subscribe"]("watcher", "/")))
    assert client.until(lambda: "/camera/image_raw" in dict(reads["subscribe"]("count", "/")))
    assert client.until(lambda: "/camera/depth/image_raw" in dict(reads["subscribe"]("cloud", "/")))
    assert client.until(lambda: "/camera/image_raw" in dict(reads["publish"]("replay", "/")))
    for name in NODES:
        allowed = rights()[name]
        for right, read in reads.items():
            used = set(dict(read(name, "/")))
            assert used <= allowed[right], f"{name} may not {right} {used - allowed[right]}"
            assert allowed[right] - used <= SELDOM, f"{name} never {right}s {allowed[right] - used}"
    viewer.closed = True
