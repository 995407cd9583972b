"""A process dies at every instant at which it has just written something, or is about to; its run is resumed.

Afterwards nothing may tell the run from one that nobody interrupted: `python -m tests.crash` tries every instant of
every line, `test_crash.py` a few of them.
"""
