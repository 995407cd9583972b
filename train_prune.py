"""Train a detector, pull its idle channels to zero, and cut it thin: `thinyolo prune` under its first name."""

import sys

from thinyolo.training import PRUNE


def main() -> int:
    """Entry point; returns the exit status."""
    return PRUNE.main(prog="python train_prune.py")


if __name__ == "__main__":
    sys.exit(main())
