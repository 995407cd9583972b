"""``python -m thinyolo``; see `thinyolo.main`."""

import sys

from thinyolo.main import main

if __name__ == "__main__":
    sys.exit(main())
