"""Exported stages are found again by the card alone: the network is not built, torch not loaded."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fixtures.paths import run_python
from vss_ros.backends import onnx_files
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


@pytest.mark.parametrize("exports", [True, False])
def test_where_another_process_cannot_export_this_one_does(cache, tiny_card, monkeypatch, exports):
    """It fails, or ends well and leaves nothing."""
    asked = []
    monkeypatch.setattr(onnx_files, "sys", SimpleNamespace(modules={}))
    monkeypatch.setattr(
        onnx_files, "child_command", lambda *words: asked.append(words) or [str(exports).lower()]
    )
    found = stage_files(open_model(tiny_card))
    assert asked and found["decode"].read_bytes() == b"decode"


def test_a_cache_that_cannot_be_written_has_no_other_process_export(tiny_card, tmp_path, monkeypatch):
    (tmp_path / "onnx").write_text("a file")
    monkeypatch.setattr(onnx_files, "child_command", lambda *_: pytest.fail("asked"))
    assert not onnx_files.export_apart(open_model(tiny_card), tmp_path / "onnx")


def test_the_other_process_makes_the_whole_stage_beside_its_parts(cache, tiny_card, no_network, monkeypatch):
    assert not onnx_files.main([str(tiny_card), "64", "96", "4"])
    no_network()
    parts, whole = (stage_files(replace(open_model(tiny_card), parts=n)) for n in (4, 1))
    assert "remember4of4" in parts and "remember" in whole


def test_a_process_that_runs_exported_stages_loads_neither_torch_nor_what_draws_or_exports(tiny_card):
    """Its labels are those of the process that exported them."""
    lines = f"""
import sys
import numpy as np
from vss_ros import load_stream
stream = load_stream({str(tiny_card)!r}, backend="onnxruntime", schedule="at_once", height=64, width=96)
frames = np.random.default_rng(0).integers(0, 256, (6, 64, 96, 3), np.uint8)
sums = [int(stream(frame, i / 30).labels.astype(int).sum()) for i, frame in enumerate(frames)]
"""
    here: dict = {}
    exec(lines, here)
    heavy = "[m for m in ('torch', 'onnx', 'onnxscript', 'scipy', 'matplotlib') if m in sys.modules]"
    there = run_python(f"{lines}\nprint(*sums, {heavy})").stdout.split()
    assert there == [*map(str, here["sums"]), "[]"] and len(there) == 7
