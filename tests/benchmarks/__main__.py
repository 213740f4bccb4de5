"""minisd beside diffusers: the same weights and inputs, in turn (A B A B …), as a table of ratios.

    python -m tests.benchmarks --size mini               # a minute
    python -m tests.benchmarks --size sd15 --readme      # twenty minutes on two cores, 12 GB; README's table and figure

Below 1 is faster or smaller. Before anything is timed, the outputs must agree. For Stable Diffusion's sizes random
weights in the published layout serve, which cost as much as real ones.
"""

import argparse
import platform
import sys
import tempfile
from pathlib import Path

import diffusers
import torch

from minisd.checkpoint import fast_dtype
from tests.benchmarks import rows
from tests.benchmarks.measure import as_table

ROOT = Path(__file__).resolve().parents[2]
README_MARKS = "<!-- benchmarks -->\n", "<!-- /benchmarks -->"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("mini", "sd15", "sd21"), default="mini")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--readme", action="store_true", help="write the table and the growth figure for the README")
    options = parser.parse_args()
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for row in rows.all_rows(options.size, device, Path(folder), options.only):
            print(row, flush=True)
            found.append(row)
    table = as_table(found) + f"\n\n{machine(device, options.size)}\n"
    print("\n" + table)
    if options.readme:
        write(table)
    return int(any(row.missed for row in found))


def machine(device: torch.device, size: str) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else (
        f"{torch.get_num_threads()} threads of a CPU with {torch.backends.cpu.get_cpu_capability()}"
        + (" and bfloat16" if fast_dtype(device) == torch.bfloat16 else ""))
    return (f"Measured by `python -m tests.benchmarks --size {size} --device {device.type}` on {name} "
            f"({platform.system()} {platform.machine()}), with torch {torch.__version__.split('+')[0]} and diffusers "
            f"{diffusers.__version__}.")


def write(table: str) -> None:
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(README_MARKS[0])
    _, after = rest.split(README_MARKS[1])
    readme.write_text(before + README_MARKS[0] + table + README_MARKS[1] + after)


if __name__ == "__main__":
    sys.exit(main())
