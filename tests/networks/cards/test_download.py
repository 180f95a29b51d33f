"""Weights from a server that stops, lies, or is not there: resumed, verified, never half used."""

from __future__ import annotations

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import vss_ros.networks.cards.download as module
from vss_ros import cli
from vss_ros.config import VssError
from vss_ros.networks.cards.download import KNOWN, download

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """Serves CONTENT at /weights.pth. stop: bytes after which it hangs up; ranges: whether it resumes; asked: seen."""
    state = SimpleNamespace(stop=None, ranges=True, asked=[], content=CONTENT, url="")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.asked.append(self.headers.get("Range"))
            if self.path != "/weights.pth":
                return self.send_error(404)
            start = int(re.findall(r"\d+", self.headers.get("Range", "0"))[0]) if state.ranges else 0
            if start >= len(state.content):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(state.content) - start))
            self.end_headers()
            self.wfile.write(state.content[start : state.stop])

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_address[1]}/weights.pth"
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def test_a_file_is_fetched_once(server, tmp_path):
    path = download(server.url, SHA256, tmp_path / "new")
    assert path == tmp_path / "new" / "weights.pth" and path.read_bytes() == CONTENT
    assert download(server.url, SHA256, tmp_path / "new") == path and len(server.asked) == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["weights.pth"]


@pytest.mark.parametrize("ranges", [True, False])
def test_what_was_stopped_goes_on(server, tmp_path, ranges):
    server.stop, server.ranges = 300_000, ranges
    with pytest.raises(VssError, match=r"the same command goes on from there.*ended early"):
        download(server.url, SHA256, tmp_path)
    assert not (tmp_path / "weights.pth").exists()
    server.stop = None
    assert download(server.url, SHA256, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]


def test_all_of_it_was_there(server, tmp_path):
    (tmp_path / ".weights.pth.part").write_bytes(CONTENT)
    assert download(server.url, SHA256, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("begun", [b"", b"of another file"])
def test_a_wrong_hash_is_refused_and_leaves_nothing(server, tmp_path, begun):
    if begun:
        (tmp_path / ".weights.pth.part").write_bytes(begun)
    wanted = SHA256 if begun else "0" * 64
    with pytest.raises(VssError, match=f"expected sha256 {wanted}, got [0-9a-f]+; what came is removed"):
        download(server.url, wanted, tmp_path)
    assert not list(tmp_path.iterdir())
    assert download(server.url, SHA256, tmp_path).is_file()


def test_another_file_of_that_name_is_left_alone(server, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"mine")
    with pytest.raises(VssError, match="is another file than"):
        download(server.url, SHA256, tmp_path)
    assert (tmp_path / "weights.pth").read_bytes() == b"mine" and not server.asked


def test_no_network_and_no_file_are_named(server, tmp_path):
    with pytest.raises(VssError, match="the server answers 404"):
        download(server.url.replace("weights", "other"), SHA256, tmp_path)
    with pytest.raises(VssError, match=r"cannot be fetched .*refused"):
        download("http://127.0.0.1:1/weights.pth", SHA256, tmp_path)


def test_a_full_disk_is_named_and_what_is_there_kept(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(VssError, match=r"the disk is full: 1 MiB are to come, 0 MiB are free; make room"):
        download(server.url, SHA256, tmp_path)
    monkeypatch.undo()
    (tmp_path / ".weights.pth.part").symlink_to("/dev/full")
    with pytest.raises(VssError, match="the disk is full: No space left"):
        download(server.url, SHA256, tmp_path)


@pytest.mark.parametrize(
    ("url", "sha256", "said"),
    [
        ("file:///etc/passwd", SHA256, "expected an http or https address"),
        ("http://host/", SHA256, "address of a file"),
        ("http://host/x.pth", "abc", "64 hexadecimal digits"),
    ],
)
def test_addresses_and_hashes_are_checked(tmp_path, url, sha256, said):
    with pytest.raises(VssError, match=said):
        download(url, sha256, tmp_path)


def test_more_than_weights_can_be_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WEIGHTS_BYTES", 1000)
    with pytest.raises(VssError, match="expected at most 1000 bytes"):
        download(server.url, SHA256, tmp_path)


def test_the_list_is_whole():
    for name, entry in KNOWN.items():
        assert module.SHA256.fullmatch(entry.sha256) and entry.url.startswith("https://") and entry.licence
        assert f"-{entry.sha256[:8]}." in entry.url, f"{name}: its publisher names files by their hash"


def test_the_command(server, tmp_path, monkeypatch, capsys):
    line = ["models", "--get", server.url, "--out", str(tmp_path)]
    assert cli.main(line) == 1 and "expected --sha256 beside a URL" in capsys.readouterr().err
    assert cli.main([*line, "--sha256", SHA256]) == 0
    assert str(tmp_path / "weights.pth") in capsys.readouterr().out
    assert cli.main(["models", "--get", "resnet19"]) == 1
    assert "did you mean resnet18?" in capsys.readouterr().err
    monkeypatch.setitem(KNOWN, "mine", module.Published(server.url, SHA256, "MIT", "tests"))
    assert cli.main(["models", "--get", "mine", "--out", str(tmp_path / "b")]) == 0
    assert "licence: MIT" in capsys.readouterr().out
