"""Exported stages are found again by the card alone: the network is not built, torch not loaded."""

import json

import pytest
from fixtures.paths import run_python
from vss_ros.backends.onnx_files import index_path, recall, stage_files
from vss_ros.networks.cards.card import StoredNetwork
from vss_ros.networks.cards.model import open_model


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VSS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "vss_ros.backends.onnx_export.export",
        lambda model, wanted: {stage: stage.encode() for stage in wanted},
    )
    return tmp_path / "cache" / "onnx"


@pytest.fixture
def no_network(monkeypatch):
    """From here on a network that is built is an error."""

    def forbid():
        def fail(_):
            raise AssertionError("the network was built")

        monkeypatch.setattr(StoredNetwork, "network", property(fail))

    return forbid


def test_a_second_start_builds_no_network(cache, tiny_card, no_network):
    first = stage_files(open_model(tiny_card))
    no_network()
    found = stage_files(open_model(tiny_card))
    assert found == first and list(found) == list(first) == ["encode", "remember", "decode", "propagate"]
    with pytest.raises(AssertionError, match="was built"):
        stage_files(open_model(tiny_card, (64, 64)))


@pytest.mark.parametrize("damage", ["stage", "index", "no index", "foreign"])
def test_what_is_damaged_is_made_again(cache, tiny_card, no_network, damage):
    model = open_model(tiny_card)
    first = stage_files(model)
    index = index_path(cache, model)
    if damage == "stage":
        first["decode"].write_bytes(b"other")
    elif damage == "index":
        index.write_bytes(index.read_bytes()[:-9])
    elif damage == "no index":
        index.unlink()
    else:
        index.chmod(0o666)
    assert stage_files(open_model(tiny_card)) == first
    assert first["decode"].read_bytes() == b"decode"
    no_network()
    if damage != "foreign":
        assert stage_files(open_model(tiny_card)) == first


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"7", b"null", b'"x"', b"[1]", b"[[]]", b"[" * 10000, b"\xff" * 20, b" " * (1 << 17)]
    + [json.dumps([name]).encode() for name in ("../../../etc/passwd", "/etc/passwd", "encode.onnx")]
    + [json.dumps(["0" * 32 + "-encode.onnx", "0" * 32 + "-../x.onnx"]).encode()],
)
def test_an_index_that_is_none(tmp_path, content):
    tmp_path.chmod(0o700)
    (tmp_path / "index.json").write_bytes(content)
    assert recall(tmp_path / "index.json") == {}


def test_a_process_with_exported_stages_never_loads_torch(tiny_card):
    """Its labels are those of the process that exported them."""
    lines = f"""
import sys
import numpy as np
from vss_ros import load_stream
stream = load_stream({str(tiny_card)!r}, backend="onnxruntime", schedule="at_once")
frames = np.random.default_rng(0).integers(0, 256, (6, 64, 96, 3), np.uint8)
sums = [int(stream(frame, i / 30).labels.astype(int).sum()) for i, frame in enumerate(frames)]
"""
    here: dict = {}
    exec(lines, here)
    there = run_python(f"{lines}\nprint(*sums, 'torch' in sys.modules)").stdout.split()
    assert there == [*map(str, here["sums"]), "False"] and len(there) == 7
