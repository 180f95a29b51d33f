"""Every shape that recorders, tools and accidents leave: each is read, or refused for the right reason."""

import shutil
import struct
import time

import numpy as np
import pytest
import zstandard
from fixtures.bags import (
    START,
    STEP,
    TOPIC,
    cdr,
    header,
    image,
    values,
    write_db3,
    write_mcap,
    write_metadata,
    write_ros1,
)
from mcap.reader import make_reader
from mcap.writer import CompressionType, IndexType, Writer
from rosbags.typesys import Stores, get_typestore
from vss_ros.config import VssError
from vss_ros.media.bags import IMAGE, BagReader, BagWriter, find_bags, mcap, unpack
from vss_ros.media.bags.recover import recover

LAYOUTS = {
    "all": {},
    "no chunk index": {"index_types": IndexType.ALL & ~IndexType.CHUNK},
    "no message index": {"index_types": IndexType.ALL & ~IndexType.MESSAGE},
    "no index": {"index_types": IndexType.NONE},
    "unchunked": {"use_chunking": False},
    "no channels again": {"repeat_channels": False},
    "no schemas again": {"repeat_schemas": False},
    "no statistics": {"use_statistics": False},
    "no offsets": {"use_summary_offsets": False},
    "nothing again": {
        "repeat_channels": False,
        "repeat_schemas": False,
        "use_statistics": False,
        "use_summary_offsets": False,
        "index_types": IndexType.NONE,
    },
    "lz4": {"compression": CompressionType.LZ4},
    "uncompressed": {"compression": CompressionType.NONE},
    "small chunks": {"chunk_size": 1},
    "no checksums": {"enable_crcs": False},
    "all checksums": {"enable_data_crcs": True},
}


@pytest.mark.parametrize("order", [None, [3, 0, 4, 1, 2]], ids=["in order", "out of order"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_mcap(tmp_path, layout, order):
    beside = [("/log", "json"), ("/proto", "protobuf")]
    path = write_mcap(tmp_path / "a.mcap", order=order, beside=beside, **LAYOUTS[layout])
    with BagReader(path) as bag:
        assert bag.topics[TOPIC] == (IMAGE, 5)
        assert values(bag) == list(range(5))


@pytest.mark.parametrize("chunk_size", [1, 300, 1 << 20])
def test_an_mcap_without_an_end(tmp_path, chunk_size, caplog):
    path = write_mcap(tmp_path / "a.mcap", chunk_size=chunk_size, finish=False)
    data = path.read_bytes()
    with BagReader(path) as bag:
        assert values(bag) == list(range(5))
    assert "cut off" in caplog.text
    path.write_bytes(data[:-7])
    with BagReader(path) as bag:
        assert values(bag) in ([0, 1, 2, 3, 4], [0, 1, 2, 3], [0, 1, 2])


def test_what_stands_behind_a_damaged_chunk_is_read(tmp_path, caplog):
    path = write_mcap(tmp_path / "a.mcap", chunk_size=1, compression=CompressionType.NONE)
    data = bytearray(path.read_bytes())
    data[data.index(bytes([2] * 48)) + 5] ^= 1
    path.write_bytes(data)
    with BagReader(path) as bag:
        assert values(bag) == [0, 1, 3, 4]
    assert "checksum (CRC) is wrong" in caplog.text


@pytest.mark.parametrize("part", [0.3, 0.5, 0.8, 0.97, 1.0])
def test_an_unfinished_bag_is_completed_where_it_lies(tmp_path, part):
    bag = BagWriter(tmp_path / "run")
    for index in range(40):
        bag.write(TOPIC, IMAGE, image(index), START + index * STEP)
        bag.write("/other", IMAGE, image(0), START + index * STEP)
        bag.flush(0.0)
    bag.file.close()
    path = tmp_path / "run" / "run.mcap"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    count = recover(path)
    with path.open("rb") as file:
        official = make_reader(file, validate_crcs=True)
        summary = official.get_summary()
        read = [message.data for _, channel, message in official.iter_messages([TOPIC])]
        assert summary.statistics.message_count == count == len(list(official.iter_messages()))
    assert read == [cdr(image(index)) for index in range(len(read))] and len(read) >= 40 * part * 0.8 - 2
    with BagReader(tmp_path / "run") as again:
        assert values(again) == list(range(len(read)))
        assert again.problems == []
    before = path.read_bytes()
    recover(path)
    assert path.read_bytes() == before, "a complete file is left as it is"


METADATA = {
    "missing": None,
    "empty": "",
    "no YAML": "{a: [",
    "binary": "\0\1",
    "other": "rosbag2_bagfile_information: 3\n",
    "a list": "- 1\n",
    "no topics": "rosbag2_bagfile_information:\n  version: 5\n  relative_file_paths: [b_0.db3]\n",
    "null topics": "rosbag2_bagfile_information:\n  topics_with_message_count: null\n  relative_file_paths: null\n",
    "empty fields": "rosbag2_bagfile_information:\n  storage_identifier: ''\n  relative_file_paths: ['']\n",
    "old paths": "rosbag2_bagfile_information:\n  relative_file_paths: [drive/b_0.db3]\n",
    "other name": "rosbag2_bagfile_information:\n  relative_file_paths: [renamed_0.db3]\n",
    "twice": "rosbag2_bagfile_information:\n  relative_file_paths: [b_0.db3, ./b_0.db3]\n",
    "a trap": "a: &a [1, 1]\nb: &b [*a, *a]\nrosbag2_bagfile_information: {relative_file_paths: [*b, &c [*b, *b]]}\n",
    "odd topics": "rosbag2_bagfile_information:\n  topics_with_message_count: [1, {topic_metadata: null}]\n",
    "future": "rosbag2_bagfile_information:\n  version: 99\n  relative_file_paths: [b_0.db3]\n",
}


@pytest.mark.parametrize("state", METADATA)
def test_every_state_of_metadata(tmp_path, state):
    write_db3(tmp_path / "drive" / "b_0.db3")
    if METADATA[state] is not None:
        (tmp_path / "drive" / "metadata.yaml").write_text(METADATA[state])
    with BagReader(tmp_path / "drive") as bag:
        assert values(bag) == list(range(5))


def test_compressed_as_files_and_as_messages(tmp_path):
    for name, write in (("a.db3", write_db3), ("b.mcap", write_mcap)):
        plain = write(tmp_path / name)
        packed = tmp_path / name.split(".")[0] / f"{name}.zstd"
        packed.parent.mkdir()
        packed.write_bytes(zstandard.compress(plain.read_bytes()))
        for path in (packed, packed.parent):
            with BagReader(path) as bag:
                assert values(bag) == list(range(5))
    stream = zstandard.ZstdCompressor().compressobj()  # does not state its size
    packed.write_bytes(stream.compress(plain.read_bytes()) + stream.flush())
    with BagReader(packed) as bag:
        assert values(bag) == list(range(5))
    with BagReader(write_db3(tmp_path / "messages.db3", packed=True)) as bag:
        assert values(bag) == list(range(5))
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(VssError, match=r"b\.mcap\.zstd"), BagReader(packed) as bag:
        values(bag)


def test_split_files(tmp_path):
    folder = tmp_path / "drive"
    for number in (0, 1, 2, 10):
        write_mcap(folder / f"drive_{number}.mcap", [image(number * 2 + i) for i in range(2)])
    assert find_bags(folder) == [folder]
    with BagReader(folder) as bag:
        assert values(bag) == [0, 1, 2, 3, 4, 5, 20, 21]
    write_metadata(folder, ["drive_1.mcap", "gone_5.mcap", "drive_0.mcap"])
    with BagReader(folder) as bag:
        assert sorted(values(bag)) == [0, 1, 2, 3, 4, 5, 20, 21]
    (folder / "drive_1.mcap").write_bytes(b"")
    with BagReader(folder) as bag:
        assert values(bag) == [0, 1, 4, 5, 20, 21]


def test_several_drives_in_a_folder_and_drives_that_lie_there_twice(tmp_path):
    folder = tmp_path / "drives"
    a, b = write_mcap(folder / "monday.mcap"), write_db3(folder / "tuesday.db3")
    assert find_bags(folder) == [a, b]
    with pytest.raises(VssError, match=r"several; name one of monday\.mcap, tuesday\.db3"):
        BagReader(folder)
    twice = tmp_path / "twice"
    write_mcap(twice / "drive_0.mcap")
    write_db3(twice / "drive_0.db3")
    (twice / "drive_0.db3.zstd").write_bytes(b"half written")
    assert find_bags(twice) == [twice]
    with BagReader(twice) as bag:
        assert values(bag) == list(range(5))


@pytest.mark.parametrize("compression", [None, "BZ2", "LZ4"])
def test_ros1(tmp_path, compression):
    path = write_ros1(tmp_path / "drive.bag", compression=compression)
    for source in (path, tmp_path):
        with BagReader(source) as bag:
            assert bag.topics[TOPIC] == (IMAGE, 5)
            assert values(bag) == list(range(5))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(VssError, match=r"a ROS 1 bag .*`rosbag reindex`"):
        BagReader(path)


def test_ros1_messages_in_an_mcap_and_encodings_that_are_not_read(tmp_path):
    store = get_typestore(Stores.ROS1_NOETIC)
    message = store.types[IMAGE](header(START, store), 6, 8, "mono8", 0, 8, np.full(48, 7, np.uint8))
    with (tmp_path / "a.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start("ros1", "tests")
        schema = writer.register_schema("sensor_msgs/Image", "ros1msg", b"")
        channel = writer.register_channel(TOPIC, "ros1", schema)
        other = writer.register_channel("/json", "json", schema)
        writer.add_message(channel, START, bytes(store.serialize_ros1(message, IMAGE)), START)
        writer.add_message(other, START, b"{}", START)
        writer.finish()
    with BagReader(tmp_path / "a.mcap") as bag:
        assert values(bag) == [7]
        assert bag.topics == {TOPIC: (IMAGE, 1), "/json": (f"{IMAGE} as json", 1)}
        with pytest.raises(VssError, match="cannot decode sensor_msgs/msg/Image as json"):
            values(bag, "/json")


@pytest.mark.parametrize("name", ["run#3 50%25 what?", "a&b=c", "ünï", "mode=ro?immutable=1"])
def test_odd_names(tmp_path, name):
    write_db3(tmp_path / name / f"{name}_0.db3")
    with BagReader(tmp_path / name) as bag:
        assert values(bag) == list(range(5))


def test_one_damaged_message_among_many(tmp_path, caplog):
    import sqlite3

    path = write_db3(tmp_path / "a.db3")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE messages SET data = ? WHERE id = 3", (b"\0\1\0\0cut",))
        database.execute("UPDATE messages SET data = NULL WHERE id = 4")
    database.close()
    with BagReader(path) as bag:
        assert values(bag) == [0, 1, 4]
    assert "1 messages on /camera/image_raw are damaged and left out" in caplog.text


def test_a_git_lfs_pointer_is_called_one(tmp_path):
    (tmp_path / "a.mcap").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(VssError, match="git lfs pull"):
        BagReader(tmp_path / "a.mcap")


def bomb(path, size, stated=None):
    """An mcap of one chunk of zeros. stated: the size at its head, which may be a lie."""
    packed = zstandard.ZstdCompressor().compress(bytes(size))
    head = (
        struct.pack("<QQQII", START, START, stated or size, 0, 4) + b"zstd" + struct.pack("<Q", len(packed))
    )
    chunk = head + packed
    path.write_bytes(b"\x89MCAP0\r\n" + struct.pack("<BQ", 6, len(chunk)) + chunk)
    return path


def test_a_chunk_that_states_gigabytes_is_refused_unread(tmp_path):
    started = time.process_time()
    with pytest.raises(VssError, match="states 5200000000 bytes unpacked, which is implausible"):
        BagReader(bomb(tmp_path / "a.mcap", 1 << 20, stated=5_200_000_000))
    chunk = bomb(tmp_path / "c.mcap", 64 << 20).read_bytes()[8:]
    (tmp_path / "c.mcap").write_bytes(b"\x89MCAP0\r\n" + chunk * 52)
    with pytest.raises(VssError, match=r"bytes state 3489660928 bytes unpacked"):
        BagReader(tmp_path / "c.mcap")
    with BagReader(bomb(tmp_path / "b.mcap", 64 << 20, stated=1000)) as bag:
        assert bag.topics == {}
        assert any("other than the 1000 bytes" in problem for problem in bag._files[0].problems)
    assert time.process_time() - started < 2


def test_a_bomb_in_a_bag_of_ros1_stops_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "LARGEST", 10_000)
    path = write_ros1(tmp_path / "a.bag", count=1000, compression="BZ2")
    with BagReader(path) as bag, pytest.raises(VssError, match=r"a chunk of \d+ bytes unpacks to more than"):
        values(bag)


def test_a_large_chunk_that_is_no_bomb_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "LARGEST", 1000)
    noise = np.random.default_rng(0).integers(0, 256, (200, 300), np.uint8)
    with BagReader(write_mcap(tmp_path / "a.mcap", [image(0, pixels=noise)])) as bag:
        assert len(values(bag)) == 1


def test_a_packed_file_that_would_fill_the_disk_is_refused(tmp_path, monkeypatch):
    packed = tmp_path / "b_0.db3.zstd"
    packed.write_bytes(zstandard.compress(b"SQLite format 3\0" + bytes(300 << 20)))
    with pytest.raises(VssError, match="1000 times the file"):
        BagReader(packed)
    stream = zstandard.ZstdCompressor().compressobj()
    packed.write_bytes(stream.compress(bytes(64 << 20)) + stream.flush())
    monkeypatch.setattr(unpack, "SMALL", 1 << 20)
    with pytest.raises(VssError, match="unpacks to more than"):
        BagReader(packed)
    plain = write_db3(tmp_path / "plain.db3")
    packed.write_bytes(zstandard.compress(plain.read_bytes()))
    monkeypatch.setattr(unpack.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1 << 30))
    with pytest.raises(VssError, match="make room, or set TMPDIR"):
        BagReader(packed)


def test_chunks_that_overlap_are_held_within_bounds(tmp_path, monkeypatch):
    pixels = [np.full((100, 100), index, np.uint8) for index in range(20)]
    messages = [image(index, pixels=p) for index, p in enumerate(pixels)]
    order = [*range(0, 20, 2), *range(1, 20, 2)]
    path = write_mcap(tmp_path / "a.mcap", messages, order=order, chunk_size=80_000)
    with BagReader(path) as bag:
        assert values(bag) == list(range(20))
    monkeypatch.setattr(mcap, "HELD", 100_000)
    with BagReader(path) as bag:
        assert sorted(values(bag)) == list(range(20)), "none is lost where the order cannot be kept"


def test_a_killed_recorders_log_is_read_and_left_as_it_was(tmp_path):
    import sqlite3

    write_db3(tmp_path / "live" / "b_0.db3", range(3))
    database = sqlite3.connect(tmp_path / "live" / "b_0.db3")
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES(1, 0, ?)", (cdr(image(9)),))
    database.commit()
    shutil.copytree(tmp_path / "live", tmp_path / "killed")
    database.close()
    (tmp_path / "killed" / "b_0.db3-shm").unlink()
    before = {path.name: path.read_bytes() for path in (tmp_path / "killed").iterdir()}
    with BagReader(tmp_path / "killed") as bag:
        assert values(bag) == [9, 0, 1, 2]
    assert {path.name: path.read_bytes() for path in (tmp_path / "killed").iterdir()} == before


def test_a_log_that_holds_everything(tmp_path):
    import sqlite3

    (tmp_path / "live").mkdir()
    database = sqlite3.connect(tmp_path / "live" / "b_0.db3")
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE topics(id INTEGER PRIMARY KEY, name, type, serialization_format)")
    database.execute("INSERT INTO topics VALUES(1, ?, ?, '')", (TOPIC, IMAGE))
    database.execute("CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id, timestamp, data)")
    database.execute("INSERT INTO messages VALUES(1, 1, 0, ?)", (cdr(image(9)),))
    database.commit()
    shutil.copytree(tmp_path / "live", tmp_path / "killed")
    database.close()
    with BagReader(tmp_path / "killed") as bag:
        assert values(bag) == [9]
