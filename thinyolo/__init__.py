"""The `thinyolo` command: a module a command, each with its options and where the function is that does the work.

Nothing that is imported before a command runs is heavy: see `common.lazy`.
"""
