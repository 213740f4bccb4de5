"""How fast scenes are composed on one core, and how long the data set takes to load.

    python tests/benchmarks/data_speed.py

Training must never wait for the data: the goals are 200 captioned scenes of 128 pixels per second, and one second to
load. Times are CPU times of the process, so that other programs do not count. The exit status is 1 if a goal is missed.
"""

import argparse
import sys
import time

import torch

from minisd.emoji.world import EmojiData


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=1000, help="how many to compose for each line")
    count = parser.parse_args().scenes
    torch.set_num_threads(1)

    met = True
    for subset in ("core", "full"):
        start = time.process_time()
        data = EmojiData(subset)
        seconds = time.process_time() - start
        met &= seconds < 1
        print(f"{subset}: {len(data.concepts)} concepts, loaded in {seconds:.2f} s")
        for split in ("train", "heldout"):
            start = time.process_time()
            for first in range(0, count, 100):
                data.batch(range(first, first + 100), seed=0, split=split)
            rate = count / (time.process_time() - start)
            met &= rate > 200
            print(f"  {split:8} {data.resolution} px: {rate:6.0f} scenes a second")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
