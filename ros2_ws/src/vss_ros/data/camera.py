"""The cameras of a recording, and the pictures of one."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from vss_ros.config import MAX_PIXELS, VssError
from vss_ros.data.pictures import Picture, Pictures, Skipped, Source, stamp_at
from vss_ros.media.bags import CAMERA_INFO, COMPRESSED, IMAGE, PACKET, BagReader
from vss_ros.media.bags.folder import listing
from vss_ros.media.decode import decode, stamp_ns
from vss_ros.media.packets import PacketDecoder

_log = logging.getLogger(__name__)
KINDS = (IMAGE, COMPRESSED, PACKET)
NO_PICTURES = ("32FC1", "64FC1", "16UC1", "32SC1")
"""Encodings of depth and labels: such a topic is read when it is named, not as one camera of several."""
LABELS = "/label_info_json"
"""What the segment node publishes beside its masks: the images below the same name are its answers."""
ANSWERS = ("mask", "confidence", "color_mask", "overlay", "flicker", "density")
"""The nodes' images by name, for a recording that holds some of their topics alone."""
CLOCK_JUMP = 10 * 10**9
"""Nanoseconds that the header's clock may gain or lose on the recorder's from one image to the next."""


def image_topics(bag: BagReader) -> list[str]:
    """Topics with images, sorted; compressedDepth is PNG behind a header of its own, and no picture."""
    found = (name for name, (kind, count) in bag.topics.items() if kind in KINDS and count)
    return sorted(name for name in found if not name.endswith("compressedDepth"))


def refuse_topic(name: str, topic: str | None) -> None:
    """Raise VssError where a topic was named of what is no recording."""
    if topic:
        raise VssError(f"topic {topic}: expected a recording, {name} has no topics; leave it out")


def find_topic(bag: BagReader, topic: str) -> str:
    """The image topic that is meant: it, or what image_transport publishes below it; VssError if there is none."""
    found = image_topics(bag)
    if topic in found:
        return topic
    below = [name for name in found if name.startswith(f"{topic.rstrip('/')}/")]
    if below:
        return max(below, key=lambda name: bag.topics[name][1])
    if not found:
        raise VssError(f"{bag.path}: no images, its topics are {listing(sorted(bag.topics)) or 'none'}")
    raise VssError(f"{bag.path}: no images on {topic!r}; expected one of {listing(found)}")


def cameras(bag: BagReader) -> list[str]:
    """A topic of each camera: of a raw topic and its compressed forms the one with the most images.

    What our nodes answered is no camera. Raises VssError where there is none.
    """
    images = image_topics(bag)
    if not images:
        raise VssError(f"{bag.path}: no images, its topics are {listing(sorted(bag.topics)) or 'none'}")
    nodes = tuple(name.removesuffix(LABELS) + "/" for name in bag.topics if name.endswith(LABELS))
    base = {name: name.rsplit("/", 1)[0] if bag.topics[name][0] != IMAGE else name for name in images}
    found = [n for n in images if not n.startswith(nodes) and base[n].rsplit("/", 1)[-1] not in ANSWERS]
    if not found:
        raise VssError(
            f"{bag.path}: no camera, only answers of a segment node ({listing(images)}); give the recording of its "
            "camera, or name one of these as topic"
        )
    if len(found) > 1:
        found = [name for name in found if not _is_depth(bag, name)] or found
    best: dict[str, str] = {}
    for name in found:
        if base[name] not in best or bag.topics[name][1] > bag.topics[best[base[name]]][1]:
            best[base[name]] = name
    return list(best.values())


def _is_depth(bag: BagReader, topic: str) -> bool:
    if bag.topics[topic][0] != IMAGE:
        return False
    return all(message.encoding in NO_PICTURES for _, _, message in islice(bag.messages([topic]), 1))


def open_camera(
    path: Path, topic: str | None = None, fps: float | None = None, max_pixels: int = MAX_PIXELS
) -> Source:
    """The pictures of one camera of a recording; see `open_source`."""
    with BagReader(path) as bag:
        found = [find_topic(bag, topic)] if topic else cameras(bag)
        if len(found) > 1:
            raise VssError(f"{path}: has several image topics; choose one: topic {listing(found)}")
        chosen = found[0]
        kind, length = bag.topics[chosen]
        camera_info = _camera_info(bag, chosen)
    name, warned = f"{path}: {chosen}", set[str]()
    skipped = Skipped(name)

    def recorded() -> Pictures:
        clock = HeaderClock(name, warned)
        with BagReader(path) as bag:
            messages = ((recorded, message) for _, recorded, message in bag.messages([chosen]))
            decoded = _packets(messages, max_pixels) if kind == PACKET else _images(messages, max_pixels)
            for picture in skipped.pass_through(decoded):
                yield picture._replace(stamp=clock(picture.header, picture.recorded))

    start = list(islice(((p.rgb.shape, p.stamp) for p in recorded()), 10))
    if not start:
        raise VssError(f"{path}: expected at least one image on {chosen}, got none")
    steps = [after[1] - before[1] for before, after in pairwise(start)]
    rate = fps or (1e9 / max(statistics.median(steps), 1) if steps else 30.0)

    def retimed() -> Pictures:
        for picture in recorded():
            yield picture._replace(stamp=start[0][1] + stamp_at(picture.number, rate))

    size = start[0][0][:2]
    pictures = retimed if fps else recorded
    return Source(f"{path}:{chosen}", pictures, size, rate, length, camera_info, skipped.notes)


Messages = Iterator[tuple[int, Any]]
Decoders = Iterator[tuple[int, Callable[[], Picture]]]


def _images(messages: Messages, max_pixels: int) -> Decoders:
    def picture(number: int, recorded: int, message: Any) -> Picture:
        return Picture(decode(message, max_pixels), 0, number, stamp_ns(message), recorded)

    for number, (recorded, message) in enumerate(messages):
        yield number, partial(picture, number, recorded, message)


def _packets(messages: Messages, max_pixels: int) -> Decoders:
    """Until the first keyframe comes, packets do not decode; that of a later one gives the frame of an earlier."""
    decoder = PacketDecoder(max_pixels)

    def picture(frames: Iterator[Any]) -> Picture:
        rgb, (number, recorded, header) = next(frames)
        return Picture(rgb, 0, number, header, recorded)

    def failed(error: VssError) -> Picture:
        raise error

    for number, (recorded, message) in enumerate(messages):
        try:
            for frame in decoder.feed(message, (number, recorded, stamp_ns(message))):
                yield number, partial(picture, iter([frame]))
        except VssError as error:
            yield number, partial(failed, error)
    for frame in decoder.flush():
        yield frame[1][0], partial(picture, iter([frame]))


class HeaderClock:
    """Header stamps as long as they go on like the recorder's; from the first that does not, that one's clock does.

    So a driver without stamps, a loop, and stamps since boot that become UTC (PTP, NTP) keep their rhythm.
    """

    def __init__(self, name: str, warned: set[str]) -> None:
        self.name = name
        self.warned = warned
        self.offset: int | None = None
        self.last: int | None = None
        self.last_record = 0

    def __call__(self, header_ns: int, record_ns: int) -> int:
        if self.offset is None and (why := self.wrong(header_ns, record_ns)):
            if not self.warned:  # once a source, not once a pass
                _log.warning("%s: header stamps %s; times of recording are used instead", self.name, why)
                self.warned.add(why)
            self.offset = 0 if self.last is None else self.last - self.last_record
        stamp = header_ns if self.offset is None else record_ns + self.offset
        if self.last is not None and stamp <= self.last:  # messages of one time of recording
            stamp = self.last + 1
        self.last, self.last_record = stamp, record_ns
        return stamp

    def wrong(self, header_ns: int, record_ns: int) -> str:
        if header_ns <= 0:
            return "are zero"
        if self.last is None:
            return ""
        if header_ns <= self.last:
            return "are not increasing"
        gained = header_ns - self.last - (record_ns - self.last_record)
        return (
            f"jump by {gained / 1e9:.0f} s"
            if record_ns > self.last_record and abs(gained) > CLOCK_JUMP
            else ""
        )


def _camera_info(bag: BagReader, image_topic: str) -> dict[str, Any] | None:
    """The first CameraInfo beside the image topic (".../camera_info"), or the bag's only one; else None."""
    topics = [name for name, (msgtype, count) in bag.topics.items() if msgtype == CAMERA_INFO and count]
    parents = [image_topic.rsplit("/", depth)[0] for depth in (1, 2)]  # 2: .../image_raw/compressed
    beside = [f"{parent}/camera_info" for parent in parents if f"{parent}/camera_info" in topics]
    chosen = beside[:1] or (topics if len(topics) == 1 else [])
    for _, _, info in bag.messages(chosen) if chosen else ():
        ros1 = hasattr(info, "K")
        return {
            "width": int(info.width),
            "height": int(info.height),
            "distortion_model": info.distortion_model,
            **{key: [float(v) for v in getattr(info, key.upper() if ros1 else key)] for key in "dkrp"},
        }
    return None
