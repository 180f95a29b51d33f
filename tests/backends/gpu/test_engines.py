"""The engine cache with stand-ins for engines: nothing stale, damaged or foreign is loaded, and no write harms it."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from multiprocessing import get_context
from types import SimpleNamespace

import pytest
from fixtures.paths import give_away
from vss_ros.backends.gpu import engines
from vss_ros.config import VssError
from vss_ros.deploy import build

KEY = engines.Key(
    weights="abc",
    network="DCFM",
    stage="encode",
    size="360x480",
    precision="f16",
    calibration="",
    builder="torch-tensorrt 2.8.0",
    tensorrt="10.3.0",
    gpu="Orin sm_87",
)
CONTENT = bytes(range(256)) * 64 + b"\n" * 10
fork = get_context("fork")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VSS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


def no_leftovers(cache):
    return not [path for path in cache.iterdir() if path.suffix not in (".engine", ".lock")]


def test_an_engine_comes_back_and_only_its_owner_may_read_it(cache):
    path = engines.store(KEY, CONTENT, 12.5)
    assert engines.load(KEY) == CONTENT
    assert cache.stat().st_mode & 0o777 == 0o700 and path.stat().st_mode & 0o777 == 0o600
    (entry,) = engines.entries()
    assert (entry.key, entry.seconds, entry.problem) == (KEY, 12.5, "")


@pytest.mark.parametrize("field", list(engines.Key.__dataclass_fields__))
def test_an_engine_for_anything_else_is_stale(field):
    engines.store(KEY, CONTENT)
    other = replace(KEY, **{field: "another"})
    with pytest.raises(engines.NoEngine, match="no engine has been built"):
        engines.load(other)
    assert engines.differences(other, KEY) == [f"{field}: built for {getattr(KEY, field)}, now another"]


def test_a_file_under_another_engines_name_is_refused(cache):
    path = engines.store(KEY, CONTENT)
    other = replace(KEY, gpu="RTX 4090 sm_89")
    path.rename(engines.file_of(other))
    with pytest.raises(engines.NoEngine, match="belongs to another engine"):
        engines.load(other)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "no header"])
def test_a_damaged_engine_is_built_again(damage):
    path = engines.store(KEY, CONTENT)
    good = path.read_bytes()
    bad = {
        "truncated": good[: len(good) // 2],
        "flipped": good[:-20] + bytes([good[-20] ^ 1]) + good[-19:],
        "empty": b"",
        "no header": CONTENT,
    }[damage]
    path.write_bytes(bad)
    with pytest.raises(engines.NoEngine, match="is damaged"):
        engines.load(KEY)
    assert "is damaged" in engines.entries()[0].problem
    assert engines.build(KEY, lambda: CONTENT) == CONTENT
    assert path.read_bytes()[-len(CONTENT) :] == CONTENT and engines.load(KEY) == CONTENT


def test_an_engine_of_another_user_is_not_loaded(monkeypatch):
    give_away(monkeypatch, engines.store(KEY, CONTENT), engines.engine_dir())
    with pytest.raises(engines.NoEngine, match="belongs to user"):
        engines.load(KEY)
    with pytest.raises(VssError, match="belongs to user"):
        engines.store(KEY, CONTENT)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of root")
def test_engines_that_root_put_into_an_image_are_loaded_unless_others_may_write_them(monkeypatch):
    path = engines.store(KEY, CONTENT)
    path.chmod(0o644)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert engines.load(KEY) == CONTENT
    path.chmod(0o666)
    with pytest.raises(engines.NoEngine, match="writable for others"):
        engines.load(KEY)


@pytest.mark.parametrize("what", ["file", "folder"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_an_engine_that_others_can_write_is_not_loaded(cache, what, mode):
    path = engines.store(KEY, CONTENT)
    target = path if what == "file" else cache
    target.chmod(target.stat().st_mode | mode)
    with pytest.raises(engines.NoEngine, match="writable for others"):
        engines.load(KEY)
    assert "writable for others" in engines.entries()[0].problem


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_are_not_followed(cache, tmp_path, what):
    path = engines.store(KEY, CONTENT)
    target = path if what == "file" else cache
    target.rename(tmp_path / "elsewhere")
    target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(engines.NoEngine):
        engines.load(KEY)


def test_a_readable_folder_is_closed_when_something_is_stored(cache):
    cache.mkdir(parents=True, mode=0o755)
    engines.store(KEY, CONTENT)
    assert cache.stat().st_mode & 0o777 == 0o700


def builder(log, delay):
    with log.open("ab") as file:
        file.write(b"x")
    time.sleep(delay)
    return CONTENT


def test_of_two_builders_the_second_waits_and_takes_what_the_first_built(tmp_path):
    log = tmp_path / "log"
    processes = [fork.Process(target=engines.build, args=(KEY, lambda: builder(log, 0.5))) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_bytes() == b"x" and engines.load(KEY) == CONTENT


def test_a_builder_that_dies_leaves_nothing_behind(cache):
    process = fork.Process(target=engines.build, args=(KEY, lambda: os._exit(9)))
    process.start()
    process.join()
    assert process.exitcode == 9 and no_leftovers(cache)
    assert engines.build(KEY, lambda: CONTENT) == CONTENT


class FullDisk:
    """A file that takes half of what is written."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_an_error_and_harms_nothing(cache, monkeypatch):
    engines.store(KEY, CONTENT)
    fdopen = os.fdopen
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", lambda handle, mode: FullDisk(fdopen(handle, mode)))
        with pytest.raises(VssError, match=r"No space left on device.*make room or set VSS_CACHE"):
            engines.store(replace(KEY, stage="decode"), CONTENT)
    assert no_leftovers(cache) and engines.load(KEY) == CONTENT


def test_a_read_only_folder_serves_what_it_has(cache, monkeypatch):
    engines.store(KEY, CONTENT)

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("utime", "chmod"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    assert engines.load(KEY) == CONTENT
    with pytest.raises(VssError, match="Read-only file system"):
        engines.store(replace(KEY, stage="decode"), CONTENT)


def test_the_oldest_engines_go_when_the_cache_is_full():
    keys = [replace(KEY, stage=f"{number}") for number in range(4)]
    for age, key in zip((400, 300, 200), keys[:3], strict=True):
        path = engines.store(key, CONTENT)
        os.utime(path, (time.time() - age,) * 2)
    size = path.stat().st_size
    engines.load(keys[0])  # used again, so no longer the oldest
    engines.store(keys[3], CONTENT, limit=3 * size + size // 2)
    assert {entry.key for entry in engines.entries()} == {keys[0], keys[2], keys[3]}
    engines.store(keys[1], CONTENT, limit=1)
    assert {entry.key for entry in engines.entries()} == {keys[1]}, "what was just built stays"


def job(make, operators=10):
    return SimpleNamespace(operators=operators, memory=1 << 30, make=make)


def test_build_says_what_is_left_and_goes_on_where_it_stopped(capsys):
    def fail():
        raise VssError("no memory")

    stages = ("encode", "remember", "decode")
    keys = {stage: replace(KEY, stage=stage) for stage in stages}
    work = {stage: (keys[stage], job(lambda: CONTENT)) for stage in stages}
    with pytest.raises(VssError, match="no memory"):
        build.build_all({**work, "decode": (keys["decode"], job(fail))}, engines.LIMIT)
    assert [build.is_cached(keys[stage]) for stage in stages] == [True, True, False]
    text = capsys.readouterr().out
    assert (
        "1/3 encode: 10 operators ... 0 s, 0.0 MB" in text
        and "2/3 remember: 10 operators, about 0 s left" in text
    )
    made = []
    build.build_all({"decode": (keys["decode"], job(lambda: made.append(1) or CONTENT))}, engines.LIMIT)
    assert made == [1] and build.is_cached(keys["decode"])
    build.build_all(
        {"decode": (keys["decode"], job(lambda: made.append(1) or CONTENT))}, engines.LIMIT, force=True
    )
    assert made == [1, 1]


def test_time_left_is_guessed_from_engines_of_another_size():
    engines.store(replace(KEY, size="64x96"), CONTENT, seconds=50.0)
    work = {"encode": (KEY, job(lambda: CONTENT, operators=25))}
    assert build.rate_of_earlier_builds({"encode": 25}, work) == 2.0


def test_models_says_which_engines_are_stale_and_why(cache, monkeypatch, capsys):
    from vss_ros.backends.stages import fingerprint
    from vss_ros.deploy import models
    from vss_ros.networks.cards.card import find_models
    from vss_ros.networks.cards.model import open_model

    assert models.main(SimpleNamespace(all=False, clean=False, get="")) == 0
    assert "street: dcfm-mobilenet_v1" in capsys.readouterr().out
    ours = replace(KEY, weights=fingerprint(open_model("street")))
    now = {"builder": ours.builder, "tensorrt": ours.tensorrt, "gpu": ours.gpu}
    monkeypatch.setattr("vss_ros.backends.gpu.build.machine_key", lambda: now)
    monkeypatch.setattr(models, "find_models", lambda: {"street": find_models()["street"]})
    engines.store(ours, CONTENT)
    engines.store(replace(ours, stage="decode", tensorrt="8.6.1"), CONTENT)
    engines.store(replace(ours, stage="remember"), CONTENT).write_bytes(b"{}\nhalf")
    engines.store(replace(ours, weights="retrained"), CONTENT)
    models.main(SimpleNamespace(all=False, clean=False, get=""))
    out = capsys.readouterr().out
    assert "street encode 360x480 f16" in out and ": valid" in out
    assert "stale: tensorrt: built for 8.6.1, now 10.3.0" in out
    assert "is damaged" in out and "and 1 of no installed model" in out
    models.main(SimpleNamespace(all=True, clean=False, get=""))
    assert "stale: weights: no installed model has them" in capsys.readouterr().out
    (cache.parent / "onnx").mkdir(exist_ok=True)
    (cache.parent / "onnx" / "key-propagate.onnx").write_bytes(b"12")
    models.main(SimpleNamespace(all=False, clean=True, get=""))
    assert (
        "1 files of exported stages removed" in (out := capsys.readouterr().out)
        and "3 engines removed" in out
    )
    assert [entry.key for entry in engines.entries()] == [ours] and not list(cache.parent.glob("onnx/*"))
