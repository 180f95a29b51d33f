"""Reading and writing rosbag2, checked against recordings of rosbag2 itself and the official mcap reader."""

import logging
import shutil
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from fixtures.bags import write_sqlite
from fixtures.paths import find_data
from vss_ros.config import VssError
from vss_ros.media.bags import IMAGE, BagReader, BagWriter, is_bag, mcap, typestore, unpack

RECORDINGS = {  # folder: messages that each topic must yield
    "svo_mono8_mcap": {"/imu/data": 19, "/camera/camera_info": 6, "/camera/image_raw": 5},
    "dvs_mono8_sqlite3": {"/dvs/image_raw": 4, "/dvs1/image_raw": 3},
    "derived_colour_sqlite3": {"/camera/color/image_raw/compressed": 20, "/camera/color/image_raw": 4},
    "rosbag2_official/sqlite3_talker": {"/topic": 10, "/rosout": 10, "/parameter_events": 0},
    "rosbag2_official/mcap_talker": {"/topic": 10, "/rosout": 10, "/parameter_events": 0},
    "rosbag2_official/sqlite3_wbag": {"AAA": 804, "BBB": 742, "CCC": 742, "HHH": 726},
    "rosbag2_official/mcap_wbag": {"AAA": 804, "BBB": 742, "CCC": 742, "HHH": 726},
    "rosbag2_official/sqlite3_empty_bag": {"/rosout": 0},
}


@pytest.mark.parametrize("folder", RECORDINGS)
def test_every_message_of_a_recording_is_read(folder):
    expected = RECORDINGS[folder]
    with BagReader(find_data("bags") / folder) as bag:
        assert {topic: bag.topics[topic][1] for topic in expected} == expected
        messages = list(bag.messages(list(expected)))
    counts = dict.fromkeys(expected, 0)
    for topic, _, _ in messages:
        counts[topic] += 1
    assert counts == expected
    stamps = [stamp for _, stamp, _ in messages]
    assert stamps == sorted(stamps)


@pytest.mark.parametrize("kind", ["sqlite3", "mcap"])
def test_text_of_the_official_talker(kind):
    with BagReader(find_data("bags") / "rosbag2_official" / f"{kind}_talker") as bag:
        texts = [message.data for _, _, message in bag.messages(["/topic"])]
    assert len(texts) == 10
    assert all(text.startswith("Hello") for text in texts)


@pytest.mark.parametrize("kind", ["sqlite3", "mcap"])
def test_types_that_are_not_known_are_named(kind):
    with (
        BagReader(find_data("bags") / "rosbag2_official" / f"{kind}_cdr_test") as bag,
        pytest.raises(VssError, match="test_msgs/msg/BasicTypes"),
    ):
        list(bag.messages(["/test_topic"]))


def image(value, stamp_ns):
    """A 4x6 mono8 image of one value, as `rosbags` object."""
    types = typestore().types
    stamp = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
    header = types["std_msgs/msg/Header"](stamp, "camera")
    return types[IMAGE](header, 4, 6, "mono8", 0, 6, np.full(24, value % 256, np.uint8))


def write(path, storage="mcap", count=5):
    if storage == "sqlite3":
        return write_sqlite(path, [("/mask", i * 10**9 + 7, image(i, i * 10**9)) for i in range(count)])
    with BagWriter(path) as bag:
        for index in range(count):
            bag.write("/mask", IMAGE, image(index, index * 10**9), index * 10**9 + 7)
            if index % 50 == 49:
                bag.flush(0.0)
    return path


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_what_is_written_is_read_back(tmp_path, storage):
    path = write(tmp_path / "deep" / "run_1", storage)
    assert sorted(p.name for p in path.parent.iterdir()) == ["run_1"]
    data = f"run_1.{'mcap' if storage == 'mcap' else 'db3'}"
    assert sorted(p.name for p in path.iterdir()) == sorted([data, "metadata.yaml"])
    for source in (path, path / data):
        with BagReader(source) as bag:
            assert bag.topics == {"/mask": (IMAGE, 5)}
            messages = list(bag.messages(["/mask"]))
        assert [stamp for _, stamp, _ in messages] == [index * 10**9 + 7 for index in range(5)]
        assert [message.data.tolist() for _, _, message in messages] == [[index] * 24 for index in range(5)]


def test_the_official_mcap_reader_agrees(tmp_path):
    reader = pytest.importorskip("mcap.reader")
    decoder = pytest.importorskip("mcap_ros2.decoder")
    with BagWriter(tmp_path / "run") as bag:
        for index in range(3):
            bag.write("/mask", IMAGE, image(index, 5), index)
        types = typestore().types
        classes = [types["vision_msgs/msg/VisionClass"](7, "road")]
        info = types["vision_msgs/msg/LabelInfo"](image(0, 5).header, classes, 0.5)
        bag.write("/label_info", "vision_msgs/msg/LabelInfo", info, 4, latched=True)
    with (tmp_path / "run" / "run.mcap").open("rb") as file:
        official = reader.make_reader(file, decoder_factories=[decoder.DecoderFactory()])
        assert official.get_header().profile == "ros2"
        channels = official.get_summary().channels.values()
        qos = {channel.topic: channel.metadata["offered_qos_profiles"] for channel in channels}
        messages = [(channel.topic, message) for _, channel, _, message in official.iter_decoded_messages()]
    assert [topic for topic, _ in messages] == ["/mask"] * 3 + ["/label_info"]
    assert [bytes(message.data) for _, message in messages[:3]] == [bytes([index] * 24) for index in range(3)]
    label = messages[3][1].class_map[0]
    assert (label.class_id, label.class_name) == (7, "road")
    assert qos["/mask"] == "" and "durability: 1" in qos["/label_info"]


def test_serialised_messages_are_taken_as_they_are(tmp_path):
    data = bytes(typestore().serialize_cdr(image(9, 5), IMAGE))
    with BagWriter(tmp_path / "run") as bag:
        bag.write("/mask", IMAGE, data, 1)
    with BagReader(tmp_path / "run") as bag:
        [(_, _, message)] = bag.messages(["/mask"])
    assert message.data.tolist() == [9] * 24 and message.header.frame_id == "camera"


def test_a_bag_without_messages_is_whole(tmp_path):
    with BagReader(write(tmp_path / "run", count=0)) as bag:
        assert bag.topics == {}


def test_a_bag_that_is_given_up_leaves_nothing(tmp_path):
    bag = BagWriter(tmp_path / "run")
    bag.write("/mask", IMAGE, image(1, 5), 1)
    assert not (tmp_path / "run" / "metadata.yaml").exists(), "which says that it is complete"
    bag.abort()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError), BagWriter(tmp_path / "run") as bag:
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced(tmp_path):
    path = write(tmp_path / "run")
    with pytest.raises(VssError, match="exists already"):
        BagWriter(path)
    with BagReader(path) as bag:
        assert bag.topics["/mask"][1] == 5


def test_mistakes_in_writing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VssError, match="cannot be written"):
        BagWriter(tmp_path / "file" / "run")
    with BagWriter(tmp_path / "run") as bag:
        with pytest.raises(VssError, match="unknown message type 'my_msgs/msg/Odd'"):
            bag.write("/odd", "my_msgs/msg/Odd", b"", 0)
        bag.write("/mask", IMAGE, image(1, 5), 0)
        with pytest.raises(VssError, match="expected sensor_msgs/msg/Image as before"):
            bag.write("/mask", "std_msgs/msg/String", b"", 0)


def test_a_folder_without_metadata_is_read(tmp_path):
    path = write(tmp_path / "run")
    (path / "metadata.yaml").unlink()
    assert is_bag(path)
    with BagReader(path) as bag:
        assert len(list(bag.messages(["/mask"]))) == 5


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_of_a_file_cut_short_the_first_part_is_read(tmp_path, storage, caplog):
    path = write(tmp_path / "run", storage, count=2000)
    [file] = [p for p in path.iterdir() if p.suffix != ".yaml"]
    data = file.read_bytes()
    for part in (0.8, 0.4):
        file.write_bytes(data[: int(len(data) * part)])
        caplog.clear()
        with BagReader(path) as bag:
            values = [message.header.stamp.sec for _, _, message in bag.messages(["/mask"])]
        assert 100 < len(values) < 2000 and values == sorted(set(values))
        assert "expected 2000 messages" in caplog.text


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize(("size", "why"), [(0, "the file is empty"), (5, "begins like none"), (60, "run")])
def test_a_file_without_a_message_is_refused(tmp_path, storage, size, why):
    path = write(tmp_path / "run", storage)
    [file] = [p for p in path.iterdir() if p.suffix != ".yaml"]
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(VssError, match=why), BagReader(path) as bag:
        list(bag.messages(["/mask"]))


def test_missing_files_and_topics(tmp_path):
    with pytest.raises(VssError, match="no such file"):
        BagReader(tmp_path / "none")
    with pytest.raises(VssError, match=r"without \.mcap"):
        BagReader(tmp_path)
    (tmp_path / "broken").mkdir()
    text = "rosbag2_bagfile_information: {relative_file_paths: [broken_0.mcap]}\n"
    (tmp_path / "broken" / "metadata.yaml").write_text(text)
    with pytest.raises(VssError, match=r"broken_0\.mcap.*copy"):
        BagReader(tmp_path / "broken")
    with (
        BagReader(write(tmp_path / "run")) as bag,
        pytest.raises(VssError, match=r"no topic /image; expected one of /mask"),
    ):
        list(bag.messages(["/image"]))


def test_fewer_messages_than_promised(tmp_path, caplog):
    path = write(tmp_path / "run", "sqlite3")
    for remaining in (2, 0):
        with sqlite3.connect(path / "run.db3") as database:
            database.execute("DELETE FROM messages WHERE id > ?", (remaining,))
        database.close()
        with BagReader(path) as bag:
            if remaining:
                with caplog.at_level(logging.WARNING):
                    assert len(list(bag.messages(["/mask"]))) == 2
                assert "expected 5 messages by metadata.yaml, the files hold 2" in caplog.text
            else:
                with pytest.raises(VssError, match=r"expected 5 messages .* hold none"):
                    list(bag.messages(["/mask"]))


def test_qos_of_metadata_may_differ_from_the_file(tmp_path):
    """Old recorders rounded "infinite" in metadata.yaml; rosbags alone then silently yields nothing."""
    path = write(tmp_path / "run")
    text = (path / "metadata.yaml").read_text()
    profile = "[{history: 1, depth: 5, reliability: 1, durability: 2, deadline: {sec: 1, nsec: 0}, lifespan: \
{sec: 0, nsec: 0}, liveliness: 1, liveliness_lease_duration: {sec: 0, nsec: 0}, \
avoid_ros_namespace_conventions: false}]"
    assert "offered_qos_profiles: ''" in text
    (path / "metadata.yaml").write_text(
        text.replace("offered_qos_profiles: ''", f"offered_qos_profiles: '{profile}'")
    )
    with BagReader(path) as bag:
        assert len(list(bag.messages(["/mask"]))) == 5


def test_what_counts_as_a_bag(tmp_path):
    path = write(tmp_path / "run")
    assert is_bag(path) and is_bag(path / "run.mcap")
    assert not is_bag(tmp_path) and not is_bag(path / "metadata.yaml")
    shutil.rmtree(path)
    assert not is_bag(path)


def test_masks_of_one_class_are_no_bomb(tmp_path, monkeypatch):
    blank = replace(image(0, 0), height=1024, width=2048, step=2048, data=np.zeros(2 << 20, np.uint8))
    with BagWriter(tmp_path / "bag") as bag:
        for index in range(5):
            bag.write("/mask", IMAGE, blank, index)
    monkeypatch.setattr(mcap, "SMALL", 1 << 20)  # 130 such masks exceed the real one
    assert bag.file_path.stat().st_size * unpack.RATIO < 5 * blank.data.size
    with BagReader(tmp_path / "bag") as bag:
        assert sum(1 for _ in bag.messages(["/mask"])) == 5
