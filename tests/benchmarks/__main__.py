"""minisd against diffusers: the same weights and inputs, run alternately (A B A B …), as a table of ratios.

    python -m tests.benchmarks --size mini               # a minute
    python -m tests.benchmarks --size sd15 --readme sd15 # twenty minutes on two cores, 12 GB; README's table and figure

A ratio below 1 means that minisd is faster or smaller. The outputs must agree before anything is timed. For Stable
Diffusion's sizes the weights are random, in the published layout: they cost as much time as real ones.
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("mini", "sd15", "sd21"), default="mini")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=rows.GROUPS, default=rows.GROUPS, help="only these groups of rows")
    parser.add_argument("--readme", metavar="PLACE", help="write this table of the README, and the growth figure")
    options = parser.parse_args()
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for row in rows.all_rows(options.size, device, Path(folder), options.only):
            print(row, flush=True)
            found.append(row)
    made = f"\n\n{machine(device, options)}\n"
    print("\n" + as_table(found) + made)
    if options.readme:  # the README shows growth as a figure instead
        write(as_table([row for row in found if not row.what.startswith("growth")]) + made, options.readme)
    return int(any(row.missed for row in found))


def machine(device: torch.device, options: argparse.Namespace) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else (
        f"{torch.get_num_threads()} threads of a CPU with {torch.backends.cpu.get_cpu_capability()}"
        + (" and bfloat16" if fast_dtype(device) == torch.bfloat16 else ""))
    only = "" if options.only == rows.GROUPS else f" --only {' '.join(options.only)}"
    return (f"Measured by `python -m tests.benchmarks --size {options.size} --device {device.type}{only}` on {name} "
            f"({platform.system()} {platform.machine()}), with torch {torch.__version__.split('+')[0]} and diffusers "
            f"{diffusers.__version__}.")


def write(table: str, place: str) -> None:
    """Put the table between the README's markers of that name."""
    readme, begin, end = ROOT / "README.md", f"<!-- benchmarks {place} -->\n", f"<!-- /benchmarks {place} -->"
    before, rest = readme.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    readme.write_text(before + begin + table + end + after, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
