"""`python -m minisd` is the command line."""

import sys

from minisd.cli import main

sys.exit(main())
