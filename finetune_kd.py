"""Fine-tune a thin student under a fat teacher: `thinyolo distill` under its first name."""

import sys

from thinyolo.training import DISTILL


def main() -> int:
    """Entry point; returns the exit status."""
    return DISTILL.main(prog="python finetune_kd.py")


if __name__ == "__main__":
    sys.exit(main())
