"""The floor every room stands on: the one user-facing error type and file helpers."""

import os

# OpenCV reads it when it is first imported: a few damaged bytes may declare more pixels than there is memory. The limit
# is that of `data.pictures`; here it stands because nothing is imported earlier.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**27))
