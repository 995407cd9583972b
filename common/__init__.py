"""The floor every room stands on: the one user-facing error type and file helpers."""
