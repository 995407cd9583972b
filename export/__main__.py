"""``python -m export``, the earlier name of `thinyolo export`."""

import sys

from thinyolo.export import EXPORT

if __name__ == "__main__":
    print("python -m export is now called thinyolo export; both do the same", file=sys.stderr)
    sys.exit(EXPORT.main())
