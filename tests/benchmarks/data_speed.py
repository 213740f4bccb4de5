"""How fast scenes are composed on one core, and how long the data set takes to load.

    python tests/benchmarks/data_speed.py

The data must never be what training waits for: the aim is 1,000 pictures with captions a second, and one
second to load. The exit status is 1 where that is missed.
"""

import argparse
import sys
import time

import torch

from minisd.emoji.data import EmojiData


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=2000, help="how many to compose for each line")
    count = parser.parse_args().scenes
    torch.set_num_threads(1)

    met = True
    for subset in ("core", "full"):
        start = time.perf_counter()
        data = EmojiData(subset)
        seconds = time.perf_counter() - start
        met &= seconds < 1
        print(f"{subset}: {len(data.concepts)} concepts, loaded in {seconds:.2f} s")
        for split in ("train", "heldout"):
            for resolution in (64, 32):
                start = time.perf_counter()
                for first in range(0, count, 100):
                    data.batch(range(first, first + 100), seed=0, split=split, resolution=resolution)
                rate = count / (time.perf_counter() - start)
                met &= rate > 1000
                print(f"  {split:8} {resolution} px: {rate:6.0f} scenes a second")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
