"""``python -m kvnode``."""

import sys

from kvnode.cli import main

if __name__ == "__main__":
    sys.exit(main())
