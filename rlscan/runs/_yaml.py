"""`compose`: YAML documents as nodes, which have line numbers."""

import yaml

_DEEPEST, _MOST_NODES = 40, 100_000


def compose(text: str) -> yaml.Node | None:
    """The nodes of a YAML document.

    **Raises:** `yaml.YAMLError` if it is none, or if it would never end or fill the memory, because
    an alias contains itself, aliases multiply, or values are nested too deeply.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise yaml.YAMLError("values are nested too deeply") from None
    stack, num_nodes = [(root, 0)], 0
    while stack:
        node, depth = stack.pop()
        num_nodes += 1
        if depth > _DEEPEST or num_nodes > _MOST_NODES:
            raise yaml.YAMLError("values are nested too deeply, or aliases make too many of them")
        if isinstance(node, yaml.CollectionNode):
            pairs = isinstance(node, yaml.MappingNode)
            parts = [x for pair in node.value for x in pair] if pairs else node.value
            stack += [(part, depth + 1) for part in parts]
    return root
