"""`count`: camera images in, points and counts of one class of objects out, as a lifecycle node.

Its life, input, health and parameters are `segment`'s; what differs is the stream and what is published.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vss_ros.config import VssError, missing
from vss_ros.node_config import CountConfig
from vss_ros.nodes.count.publish import CountAnswers, count_status
from vss_ros.nodes.segment.node import SegmentNode


def make_streams(config: CountConfig) -> list[Any]:
    """A counting stream for each camera over one backend."""
    try:  # torch takes seconds to import: not before a model is wanted
        from vss_ros.stream.count import open_counter
    except ModuleNotFoundError as error:
        raise VssError(missing(error.name or str(error))) from error

    stream = open_counter(config)
    stream(np.zeros((*stream.backend.size, 3), np.uint8), 0.0)  # runtimes allocate with the first frame
    stream.reset()
    return [stream, *(stream.another() for _ in range(len(config.cameras) - 1))]


class CountNode(SegmentNode):
    node_name = "count"
    options = CountConfig
    make_streams: Any = staticmethod(make_streams)
    answers: Any = CountAnswers
    own_status: Any = staticmethod(count_status)
