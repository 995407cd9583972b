"""The YAML of a data set as a tree, taken as it is written, and what to do about what is no YAML."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from common.errors import UserError
from common.reading import read_text

MOST = 2 * 2**20
"""More bytes than this describe no data set; reading them would take minutes."""
COMPARE = "compare it with cfg/datasets/example.yaml"


def compose(source: Path) -> yaml.MappingNode:
    """The YAML tree of a file whose top is a map. Aliases are shared nodes in it, so no bomb goes off.

    Raises:
        UserError: it is none.
    """
    try:
        node = yaml.compose(read_text(source, MOST), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or str(error)[:200]
        todo = next((todo for words, todo in YAML_TODO.items() if words in said), COMPARE)
        raise UserError(
            f"is not valid yaml: {said}", where=source, line=mark.line + 1 if mark else None, todo=todo
        ) from error
    except (RecursionError, ValueError, OverflowError) as error:
        raise UserError(f"is not valid yaml: {type(error).__name__}", where=source, todo=COMPARE) from error
    if not isinstance(node, yaml.MappingNode):
        todo = COMPARE
        if isinstance(node, yaml.ScalarNode) and re.search(r"\b(train|val|names|path):\S", str(node.value)):
            todo = "write a space after each colon: train: images/train"
        raise UserError("is not a data set (a map with train, val and names)", where=source, todo=todo)
    return node


YAML_TODO = {
    "'\\t'": "indent with spaces: yaml takes no tabs at the beginning of a line",
    "unknown escape character": "write \\ as /, or put the path in 'single quotes'",
    "could not find expected ':'": "write each line as `key: value`, with a space after the colon",
    "mapping values are not allowed": "put names with a colon in quotes, and indent lines of the same kind alike",
    "expected ',' or ']'": "close the list with ]",
    "expected ',' or '}'": "close the map with }",
    "but found another document": "leave one data set in the file: delete all from the second --- on",
    "found undefined alias": "define the anchor (&name) before it is used, or put text with a * in quotes",
    "expected alphabetic or numeric character": "put text that begins with * or & in quotes",
    "special characters are not allowed": "save it as plain UTF-8 text without control characters",
    "that cannot start any token": "put text that begins with % @ or ` in quotes",
    "expected the node content": "delete the comma too many, or write what is missing",
    "expected <block end>": "indent lines of the same kind alike",
}
"""What to do about a fault of YAML, by words of PyYAML's message."""


def pairs(node: yaml.MappingNode, merged: set[int] | None = None) -> list[tuple[yaml.Node, yaml.Node]]:
    """The pairs of a map; ``<<: *other`` brings those of another, which its own keys go before.

    Args:
        merged: the maps that were brought in already: none is twice, or maps of maps of maps would never end.
    """
    merged = {id(node)} if merged is None else merged
    own = [(key, value) for key, value in node.value if getattr(key, "value", "") != "<<"]
    known = {str(key.value) for key, _ in own}
    for key, value in node.value:
        if getattr(key, "value", "") != "<<":
            continue
        for other in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if isinstance(other, yaml.MappingNode) and id(other) not in merged and len(merged) < 1000:
                merged.add(id(other))
                more = [pair for pair in pairs(other, merged) if str(pair[0].value) not in known]
                known.update(str(each.value) for each, _ in more)
                own += more
    return own
