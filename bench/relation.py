"""One streamed CFFM or MRCFA frame against the MiT encoder alone, torch on the CPU, both in the same run.

The authors' code encodes all four frames and projects every reference anew; a stream remembers what a reference has
already computed. Their relation, measured on their code at the same size: 6.2 for CFFM-B0, 8.9 for MRCFA-B0.

    python bench/relation.py [--rounds 15] [--threads 2]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from statistics import median

import torch
from vss_ros.networks import build

SIZE, CLASSES = (512, 1024), 19
AUTHORS = {("cffm", "mit_b0"): 1362 / 219, ("cffm", "mit_b1"): 2709 / 675}
AUTHORS |= {("mrcfa", "mit_b0"): 1947 / 219, ("mrcfa", "mit_b1"): 2714 / 675}


def milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name, backbone in itertools.product(("cffm", "mrcfa"), ("mit_b0", "mit_b1")):
        network, frame = build(name, backbone, CLASSES).eval(), torch.randn(1, 3, *SIZE)
        features = network.encode(frame)
        memory = network.remember(features)
        stages: dict[str, Callable[[], object]] = {
            "MiT": lambda n=network, x=frame: n.backbone(x),
            "encode": lambda n=network, x=frame: n.encode(x),
            "remember": lambda n=network, f=features: n.remember(f),
            "decode": lambda n=network, f=features, m=memory: n.decode(f, m, m, m),
        }
        rounds = [
            {stage: milliseconds(work) for stage, work in stages.items()} for _ in range(args.rounds + 1)
        ]
        times = {stage: median(r[stage] for r in rounds[1:]) for stage in stages}
        streamed = times["encode"] + times["remember"] + times["decode"]
        parts = ", ".join(f"{stage} {ms:.0f}" for stage, ms in times.items())
        print(
            f"{name}-{backbone}: {parts} ms; frame / MiT {streamed / times['MiT']:.2f}, "
            f"the authors' {AUTHORS[name, backbone]:.1f}"
        )


if __name__ == "__main__":
    main()
