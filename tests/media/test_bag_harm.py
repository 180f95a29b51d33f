"""Recordings that were made to do harm: sound to the tools that wrote them, and refused in one line at once."""

import os
import resource
import sqlite3
from functools import partial

import pytest
from fixtures.bags import TOPIC, write_db3, write_metadata
from mcap.writer import Writer
from vss_ros.config import VssError
from vss_ros.data.source import open_source
from vss_ros.media.bags import IMAGE, BagReader

MESSAGES = "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id, timestamp, data)"
TOPICS = f"CREATE VIEW topics AS SELECT 1 id, '{TOPIC}' name, '{IMAGE}' type, 'cdr' serialization_format"
ENDLESS = (
    "WITH RECURSIVE x(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM x) SELECT i, 1 topic_id, i timestamp FROM x"
)


@pytest.mark.parametrize("script", [f"{TOPICS}; CREATE VIEW messages AS {ENDLESS}", f"{TOPICS}; {MESSAGES}"])
def test_a_view_that_could_compute_for_ever_is_no_table(tmp_path, script):
    with sqlite3.connect(tmp_path / "a.db3") as database:
        database.executescript(script)
    with pytest.raises(VssError, match="expected the tables of a rosbag2"):
        BagReader(tmp_path)


def test_a_table_whose_messages_are_longer_than_its_file(tmp_path):
    path = write_db3(tmp_path / "a.db3")
    with sqlite3.connect(path) as database:
        database.executescript(
            "DROP TABLE messages; CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id, timestamp, "
            "data AS (zeroblob(400000000))); INSERT INTO messages(topic_id, timestamp) VALUES (1, 5)"
        )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with BagReader(path) as bag, pytest.raises(VssError, match="1 messages lie in damaged pages"):
        list(bag.messages([TOPIC]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.mark.parametrize("counts", ["7", "{a: 1}", "[7, [], {topic_metadata: 3}]", "text"])
def test_numbers_of_messages_that_are_none(tmp_path, counts):
    write_db3(tmp_path / "a_0.db3")
    (tmp_path / "metadata.yaml").write_text(
        f"rosbag2_bagfile_information: {{topics_with_message_count: {counts}, relative_file_paths: [a_0.db3]}}"
    )
    with BagReader(tmp_path) as bag:
        assert len(list(bag.messages([TOPIC]))) == 5


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/dev/zero", "a\0b", "", "x" * 5000])
def test_files_that_metadata_names_elsewhere_or_impossibly(tmp_path, name):
    write_db3(tmp_path / "a_0.db3")
    write_metadata(tmp_path, [name, "a_0.db3"])
    with BagReader(tmp_path) as bag:
        assert len(list(bag.messages([TOPIC]))) == 5


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_device_of_a_recordings_name_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "a_0.db3"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(VssError, match=r"a folder without .mcap or .db3 files"):
        BagReader(tmp_path)
    write_db3(tmp_path / "b.db3")
    write_metadata(tmp_path, ["a_0.db3", "b.db3"])
    with BagReader(tmp_path) as bag:
        assert len(list(bag.messages([TOPIC]))) == 5


def test_an_error_lists_no_60000_topics(tmp_path):
    with (tmp_path / "a.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start("ros2", "tests")
        for number in range(2000):
            writer.register_channel(f"/topic{number}", "cdr", 0)
        writer.finish()
    for read in (partial(open_source, tmp_path), partial(open_source, tmp_path, "/a")):
        with pytest.raises(VssError, match="no images, its topics are /topic0") as caught:
            read()
        assert len(str(caught.value)) < 1500


def test_a_name_of_a_topic_is_bounded_and_moves_no_terminal(tmp_path):
    name = "/\x1b[2J" + "x" * 10**6
    with (tmp_path / "a.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start("ros2", "tests")
        schema = writer.register_schema(IMAGE, "ros2msg", b"uint8 a")
        writer.add_message(writer.register_channel(name, "cdr", schema), 1, b"", 1)
        writer.finish()
    with BagReader(tmp_path) as bag, pytest.raises(VssError, match="no message on") as caught:
        list(bag.messages([name]))
    assert len(str(caught.value)) < 4000 and str(caught.value).isprintable()
