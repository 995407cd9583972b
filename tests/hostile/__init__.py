"""Hostile files through every entry: nothing in them is run, nothing hangs or fills the memory, one sentence is said.

``python -m tests.hostile`` hands every file to every entry and prints a table; `test_hostile` a part of that.
"""
