"""Class groups on a running node: mask, label_info_json and overlay speak of them; they change while inactive."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fixtures.ros import client, image, start

pytestmark = pytest.mark.ros


def test_groups_change_while_the_node_is_inactive(start, client, tiny_card, tmp_path):
    from sensor_msgs.msg import Image
    from std_msgs.msg import String

    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text('anything: ["*"]\ncolours: {anything: [10, 20, 30]}')
    two.write_text("free: [road, sky]\nthings: [car]")
    # on a busy machine schedule auto shows frames before the network has seen one
    at_once = {"schedule": "at_once", "max_gap": 60.0}
    process = start(model=str(tiny_card), backend="torch", autostart=True, groups=str(one), **at_once)
    assert client.active(), process.text()
    labels = client.collect(String, "/segment/label_info_json", latched=True)
    masks = client.collect(Image, "/segment/mask")
    colours = client.collect(Image, "/segment/color_mask")
    client.publish(image(np.zeros((64, 96, 3), np.uint8)))
    assert client.until(lambda: masks and colours)
    assert [(c["name"], c["color"]) for c in json.loads(labels[-1].data)["classes"]] == [
        ("anything", [10, 20, 30])
    ]
    assert set(masks[-1].data) == {0} and bytes(colours[-1].data[:3]) == bytes([10, 20, 30])

    assert "deactivate first" in client.set(groups=str(two))
    assert client.change("deactivate") and client.set(groups=str(two)) == ""
    masks.clear()
    assert client.change("activate")
    client.publish(image(np.zeros((64, 96, 3), np.uint8), stamp=2.0))
    assert client.until(lambda: masks)
    assert [c["name"] for c in json.loads(labels[-1].data)["classes"]] == ["free", "things"]
    assert set(masks[-1].data) <= {0, 1}

    two.write_text("free: [tram]")
    assert client.change("deactivate") and not client.change("activate")
    assert process.logged("free: 'tram': expected classes of model tiny")
    assert client.set(groups="") == "" and client.change("activate")
    assert client.until(lambda: "road" in labels[-1].data)
