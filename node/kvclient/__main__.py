"""``python -m kvclient`` is ``kvctl``."""

from kvclient.cli import main

if __name__ == "__main__":
    main()
