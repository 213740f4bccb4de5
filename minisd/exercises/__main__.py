"""python -m minisd.exercises FOLDER: which answers are right in the notebooks that were handed in."""

import sys

from minisd.exercises.handed_in import main

if __name__ == "__main__":
    sys.exit(main())
