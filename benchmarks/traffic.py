"""Bytes that go to a worker for an item, for videos of several lengths, as Ray serialises them.

python benchmarks/traffic.py [--chunk-frames 64]

with its source    an item that carries its source, and so every frame's pts: what was sent before
item               what is sent now: ids, a range, a key, and a reference to the source
source             sent once to each node that does an item of it
run                all items of the video and the source on two nodes, against all items with their source
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import ray  # noqa: E402
from ray import cloudpickle  # noqa: E402

from ops.video.probe import SourceColor, SourceInfo  # noqa: E402
from pipeline.engine.stage import Source  # noqa: E402
from pipeline.on_ray.wire import Sender  # noqa: E402

NODES = 2


def source_of(seconds: int, rate: int = 25) -> Source:
    """A probed video of that length with a key frame every two seconds; no file is there."""
    pts = np.arange(seconds * rate, dtype=np.int64) * 512
    info = SourceInfo(
        uri=f"/videos/of_{seconds}_seconds.mp4",
        kind="video",
        width=1280,
        height=720,
        pts=pts,
        last_duration=512,
        time_base=Fraction(1, 12800),
        rotation_degrees=0,
        mirrored=False,
        average_rate=Fraction(rate),
        codec="h264",
        pix_fmt="yuv420p",
        color=SourceColor(),
        sample_aspect_ratio=None,
        container="mov,mp4,m4a,3gp,3g2,mj2",
        stream_index=0,
        keyframe_pts=pts[:: 2 * rate],
        plain=True,
        audio_streams=1,
        subtitle_streams=0,
        size_bytes=1,
        sha256=f"{seconds:064x}",
    )
    return Source(info.sha256[-16:], info)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunk-frames", type=int, default=64)
    arguments = parser.parse_args()
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    sender = Sender(ray.put)
    print("| video | items | with its source, bytes | item, bytes | source, bytes | run before, MB | run now, MB |")
    print("|---|---|---|---|---|---|---|")
    for label, seconds in (("10 s", 10), ("1 min", 60), ("10 min", 600), ("1 h", 3600)):
        source = source_of(seconds)
        items = source.chunks(arguments.chunk_frames)
        before = len(cloudpickle.dumps(items[0]))
        now = sum(len(cloudpickle.dumps(sender.sent(item))) for item in items) / len(items)
        whole = len(cloudpickle.dumps(source))
        total = (before * len(items) / 1e6, (now * len(items) + NODES * whole) / 1e6)
        print(f"| {label} | {len(items)} | {before:,} | {now:,.0f} | {whole:,} | {total[0]:,.2f} | {total[1]:,.2f} |")
    ray.shutdown()


if __name__ == "__main__":
    main()
