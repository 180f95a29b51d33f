"""Every backend answers like torch; exported stages are cached, and a damaged cache is rebuilt."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from fixtures.networks import lively
from fixtures.paths import give_away, run_python
from vss_ros.backends.choose import make_backend
from vss_ros.backends.cpu import cpu_has_bf16
from vss_ros.backends.onnx_files import stage_files
from vss_ros.config import VssError
from vss_ros.networks.cards.model import Model, open_model

SIZE = (64, 96)
NETWORKS = [
    ("dcfm", "mit_b0"),
    ("dcfm", "mobilenet_v1"),
    ("segformer", "espnetv2"),  # the same layers as DCFM's, in one stage
    *(
        pytest.param(*case, marks=pytest.mark.long)
        for case in (("dcfm", "espnetv2"), ("segformer", "mit_b0"))
    ),
]
NETWORKS += [
    pytest.param(name, backbone, marks=pytest.mark.slow)
    for name, backbone in (
        ("dcfm", "resnet18"),
        ("pspnet", "resnet18"),
        ("cffm", "mit_b0"),
        ("cffm", "mobilenet_v1"),
        ("mrcfa", "mit_b0"),
        ("mrcfa", "mobilenet_v1"),
        ("msaf", "resnet18"),
        ("msaf", "mobilenet_v1"),
        ("stf", "resnet18"),
        ("mar+pspnet", "resnet18"),
    )
]


def make(network, name, **options):
    return make_backend(Model(network, SIZE), name, **options)


def two_frames(backend, frames):
    """Logits of two frames that read the same memories, each memory another; by stages, then propagated."""
    if not backend.keeps:
        return [np.asarray(backend.propagate(frame, [])) for frame in frames]
    features = [backend.encode(frame) for frame in frames]
    memories = [backend.remember(f) for f in features]
    reads = [memories[i % 2] for i in range(len(backend.reads(0, [0])[0]))]
    decoded = [np.asarray(backend.decode(f, reads)) for f in features]
    return decoded + [np.asarray(backend.propagate(frame, reads)) for frame in frames]


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(("name", "backbone"), NETWORKS)
def test_backend_equals_torch(name, backbone, backend, rng):
    network = lively(name, backbone)
    frames = rng.integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    expected = two_frames(make(network, "torch"), frames)
    found = two_frames(make(network, backend), frames)
    for ours, truth in zip(found, expected, strict=True):
        assert np.abs(ours - truth).max() <= 1e-4 * np.abs(truth).max()


def test_labels_and_confidence_equal_torch(rng):
    network = lively("dcfm", "mit_b0")
    frames = rng.integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    reference, backend = make(network, "torch"), make(network, "onnxruntime")
    answers = []
    for runtime in (reference, backend):
        features = [runtime.encode(frame) for frame in frames]
        memory = [runtime.remember(features[0])]
        logits = [runtime.decode(f, memory) for f in features]
        answers.append((runtime.labels(logits, (120, 160)), runtime.confidence(logits, (120, 160))))
    assert (answers[0][0] != answers[1][0]).mean() < 1e-3
    assert np.abs(answers[0][1].astype(int) - answers[1][1]).max() <= 1


@pytest.mark.skipif(not cpu_has_bf16(), reason="this CPU has no bfloat16")
def test_bf16_agrees_roughly(rng):
    network = lively("dcfm", "mit_b0")
    frames = rng.integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    expected = two_frames(make(network, "torch"), frames)
    for ours, truth in zip(
        two_frames(make(network, "openvino", precision="bf16"), frames), expected, strict=True
    ):
        assert np.abs(ours - truth).max() <= 0.1 * np.abs(truth).max()


def test_answers_are_not_overwritten_by_later_frames(rng):
    backend = make(lively("dcfm", "mit_b0"), "openvino")
    frames = rng.integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    first = backend.encode(frames[0])
    kept = [array.copy() for array in first]
    backend.encode(frames[1])
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))


def test_signals_after_a_backend_was_replaced(tiny_card):
    """Ctrl-C after a second model: OpenVINO's signal stack of the first was unmapped (SIGSEGV on CPUs with AMX)."""
    stage_files(open_model(tiny_card))
    answer = run_python(f"""
import os, signal
from vss_ros.backends.choose import make_backend
from vss_ros.networks.cards.model import open_model
signal.signal(signal.SIGINT, lambda *_: print("heard"))
backends = [make_backend(open_model({str(tiny_card)!r}), "openvino") for _ in range(2)]
while backends:
    del backends[0]
    os.kill(os.getpid(), signal.SIGINT)
""")
    assert answer.returncode == 0 and answer.stdout == "heard\n" * 2, answer.stderr


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VSS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(network, size=SIZE):
    return stage_files(Model(network, size))


def test_exports_are_reused_and_told_apart(cache, monkeypatch):
    network = lively("segformer", "mit_b0")
    monkeypatch.setattr("vss_ros.backends.onnx_export.export", lambda *_, **__: {"propagate": b"1"})
    first = files(network)
    inodes = [path.stat().st_ino for path in first.values()]
    assert files(network) == first
    assert [path.stat().st_ino for path in first.values()] == inodes
    assert not set(files(network, (64, 64)).values()) & set(first.values())
    with torch.no_grad():
        network.linear_pred.bias += 1
    assert not set(files(network).values()) & set(first.values())


def test_exports_that_were_not_used_for_longest_make_room(cache, monkeypatch):
    network = lively("segformer", "mobilenet_v1")
    monkeypatch.setattr("vss_ros.backends.onnx_export.export", lambda *_, **__: {"propagate": b"0" * 100})
    monkeypatch.setattr("vss_ros.backends.onnx_files.LIMIT", 250)
    sizes = [(64, 32 * i) for i in range(1, 5)]
    made = []
    for age, size in enumerate(sizes[:2]):
        made.append(files(network, size)["propagate"])
        os.utime(made[-1], (age, age))
    files(network, sizes[0])  # used again
    files(network, sizes[2])
    assert made[0].exists() and not made[1].exists() and not made[1].with_suffix(".sha256").exists()
    assert len(list((cache / "onnx").glob("*.onnx"))) == 2


def test_damaged_exports_are_rebuilt(tmp_path, monkeypatch):
    network = lively("segformer", "espnetv2")  # which is exported above
    content = files(network)["propagate"].read_bytes()
    cache = tmp_path / "cache"
    monkeypatch.setenv("VSS_CACHE", str(cache))
    monkeypatch.setattr("vss_ros.backends.onnx_export.export", lambda *_, **__: {"propagate": content})
    path = files(network)["propagate"]
    flipped = content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]
    for damaged in (content[: len(content) // 2], flipped, b""):
        path.write_bytes(damaged)
        assert files(network)["propagate"].read_bytes() == content
    path.with_suffix(".sha256").unlink()
    path.write_bytes(flipped)
    assert files(network)["propagate"].read_bytes() == content
    make(network, "onnxruntime")
    assert not list(cache.rglob(".*"))  # no half-written file is left


def test_exports_that_others_could_have_written_are_not_loaded(cache, monkeypatch):
    network = lively("segformer", "mit_b0")
    monkeypatch.setattr("vss_ros.backends.onnx_export.export", lambda *_, **__: {"propagate": b"ours"})
    path = files(network)["propagate"]
    path.chmod(0o666)
    monkeypatch.setattr("vss_ros.backends.onnx_export.export", lambda *_, **__: {"propagate": b"new"})
    assert files(network)["propagate"].read_bytes() == b"new"
    path.parent.chmod(0o777)
    monkeypatch.setattr("vss_ros.backends.onnx_export.export", lambda *_, **__: {"propagate": b"newer"})
    assert files(network)["propagate"].read_bytes() == b"newer" and not path.parent.stat().st_mode & 0o022
    give_away(monkeypatch, path.parent)
    with pytest.raises(VssError, match="belongs to user"):
        files(network)


def test_a_cache_that_cannot_be_written_costs_time_at_each_start_only(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VSS_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("vss_ros.backends.onnx_export.export", lambda *_, **__: {"propagate": b"onnx"})
    network = lively("segformer", "mit_b0")
    assert files(network)["propagate"].read_bytes() == b"onnx"
    assert "set VSS_CACHE" in caplog.text
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: str(tmp_path / "file" / "nowhere"))
    with pytest.raises(VssError, match="set VSS_CACHE or TMPDIR"):
        files(network)


def test_precisions_a_backend_lacks_are_refused(monkeypatch):
    network = lively("segformer", "mit_b0")
    monkeypatch.setattr("vss_ros.backends.onnx.cpu_has_bf16", lambda: False)
    with pytest.raises(VssError, match="has no bfloat16 and would compute in f32: take"):
        make(network, "openvino", precision="bf16")
    with pytest.raises(VssError, match="onnxruntime computes in f32"):
        make(network, "onnxruntime", precision="bf16")
    with pytest.raises(VssError, match="openvino on a CPU"):
        make(network, "openvino", precision="f16")


@pytest.mark.parametrize("known", [True, False])
def test_torch_says_that_it_emulates_bfloat16(monkeypatch, caplog, known):
    monkeypatch.setattr("vss_ros.backends.torch_cpu.cpu_has_bf16", lambda: known)
    make(lively("segformer", "mit_b0"), "torch", precision="bf16")
    assert ("many times slower: take f32" in caplog.text) != known


def test_unknown_and_missing_runtimes_are_refused(monkeypatch):
    network = lively("segformer", "mit_b0")
    with pytest.raises(VssError, match="unknown backend 'fast'"):
        make(network, "fast")
    monkeypatch.setattr("vss_ros.backends.choose.find_spec", lambda name: None)
    with pytest.raises(VssError, match="pip install openvino"):
        make(network, "openvino")


def test_auto_takes_what_is_installed(monkeypatch):
    network = lively("segformer", "mit_b0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert make(network, "auto").name == "openvino"
    monkeypatch.setattr(
        "vss_ros.backends.choose.find_spec", lambda name: None if name == "openvino" else name
    )
    assert make(network, "auto").name == "onnxruntime"
    monkeypatch.setattr("vss_ros.backends.choose.find_spec", lambda name: name if name == "torch" else None)
    assert make(network, "auto").name == "torch"
