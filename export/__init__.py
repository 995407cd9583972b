"""Networks in files that something other than PyTorch runs: written, opened, described, timed."""
