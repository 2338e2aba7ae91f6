"""`python -m distdl` is the command line."""

import sys

from distdl.cli import main

if __name__ == "__main__":
    sys.exit(main())
