"""``python -m export``; see `export.command`."""

import sys

from export.command import COMMAND

if __name__ == "__main__":
    sys.exit(COMMAND.main())
