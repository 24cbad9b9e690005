"""`python -m ressa` is `ressa`."""

import sys

from ressa.cli import main

if __name__ == "__main__":
    sys.exit(main())
