"""Fine-tune a thin student under a fat teacher: `thinyolo distill` under its first name."""

import sys

from thinyolo.training import DISTILL

if __name__ == "__main__":
    sys.exit(DISTILL.main(prog="python finetune_kd.py"))
