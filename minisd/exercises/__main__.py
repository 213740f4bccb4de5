"""Which exercises are right in notebooks that were handed in, and executed again: one line a notebook.

    python -m minisd.exercises out/answers/*.ipynb
"""

import json
import re
import sys
from pathlib import Path

VERDICT = re.compile(r"^exercise (\d+\.\d+): (right!|not attempted yet|not yet)", re.MULTILINE)
SIGNS = {"right!": "right", "not attempted yet": "-", "not yet": "wrong"}


def verdicts(path: Path) -> dict[str, str]:
    """What the checks of a notebook printed: exercise → "right", "wrong" or "-"."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    printed = "\n".join("".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", []))
    return {number: SIGNS[said] for number, said in VERDICT.findall(printed)}


def main(paths: list[str]) -> int:
    if not paths:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    for path in map(Path, paths):
        found = verdicts(path)
        right = sum(value == "right" for value in found.values())
        print(f"{path.name:40} {right} of {len(found)} right   "
              + "  ".join(f"{number} {value}" for number, value in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
