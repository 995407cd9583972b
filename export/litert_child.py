"""Runs a `.tflite` once for `export.to_litert`, in a process of its own: LiteRT was not made for files that mean harm.

It imports nothing of ours: it is run by its path, and the file is its argument. Status 0: it ran; 3: why not stands on
stderr.
"""

from __future__ import annotations

import sys
from pathlib import Path


def why_not(path: str) -> str:
    """What is in the file that is in none of ours; "" where there is nothing."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(Path(path).read_bytes())
    if hasattr(model, "ExternalBufferGroupsLength") and model.ExternalBufferGroupsLength():  # since LiteRT 2
        return "it holds values that lie in another file"
    if model.SubgraphsLength() != 1:
        return "it holds a graph inside its graph"
    return ""


def main() -> None:
    del sys.path[0]  # what lies in this folder is no package of its own
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    try:
        if reason := why_not(sys.argv[1]):
            raise ValueError(reason)
        call = Interpreter(sys.argv[1], num_threads=1).get_signature_runner()
        given = call.get_input_details()
        call(**{name: np.zeros(each["shape"], each["dtype"]) for name, each in given.items()})
    except Exception as error:  # structures that are none end in any of Python's
        print(str(error)[:200] or type(error).__name__, file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
