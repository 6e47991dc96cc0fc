import ast
import importlib
import importlib.metadata
import importlib.resources
import re
import sys
import tomllib
from pathlib import Path

import pytest

import rlscan

PACKAGE = Path(__file__).parent.parent / "rlscan"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {file.relative_to(PACKAGE).with_suffix("").as_posix(): file for file in FILES}


def imported(tree: ast.AST) -> list[str]:
    """Full names of the modules that a module imports, wherever in it, `.`-relative ones so."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            # `from . import _rollout` imports a module as well as a name
            names += [base] if node.module else [base + alias.name for alias in node.names]
    return names


def siblings(name: str, tree: ast.AST) -> set[str]:
    """The rlscan modules that a module imports; `__init__` where it imports the package.

    By their paths, as in `MODULES`; a subpackage by that of its `__init__`.
    """
    found = set()
    for target in imported(tree):
        relative = target.lstrip(".")
        if num_dots := len(target) - len(relative):
            path = Path(name).parents[num_dots - 1] / relative.replace(".", "/")
        elif target.split(".")[0] == "rlscan":
            path = Path(*target.split(".")[1:])
        else:
            continue
        module, package = path.as_posix(), (path / "__init__").as_posix()
        found.add(package if package in MODULES else module)
    return found - {name}


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of the graph; empty where its nodes can be put in a line."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        for other in sorted(graph.get(node, set()) - done):
            if found := walk(other, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in graph if (found := walk(node, []))), [])


GRAPH = {name: siblings(name, ast.parse(file.read_text())) for name, file in MODULES.items()}


def test_a_cycle_would_be_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    lazy = "def f():\n    from ._rollout import rollout\n    from . import _scan\n    import rlscan"
    assert siblings("_x", ast.parse(lazy)) == {"_rollout", "_scan", "__init__"}


def test_a_subpackage_is_seen_from_both_sides() -> None:
    inside = "from .._types import A\nfrom .. import _scan\nfrom ._noise import B\nfrom . import _c"
    assert siblings("nn/_x", ast.parse(inside)) == {"_types", "_scan", "nn/_noise", "nn/_c"}
    for outside in ("from . import nn as nn", "from .nn import DropPath", "import rlscan.nn"):
        assert siblings("_x", ast.parse(outside)) == {"nn/__init__"}


def test_imports_form_a_line() -> None:
    """Also those inside of functions, which is where a cycle hides."""
    assert {"_types", "_scan", "_rollout", "__init__"} <= GRAPH.keys()
    assert GRAPH["__init__"] > {"_rollout", "_scan"}
    assert set().union(*GRAPH.values()) <= GRAPH.keys()
    assert cycle(GRAPH) == []


BELOW_ROLLOUT = {"_types", "_scan", "_random", "_mix32", "_spaces", "_pytree"}
NN = {name for name in MODULES if name.startswith("nn/")}
BELOW_ROLLOUT |= {"_with_statistics", "_keeps_statistics", "_devices"}
BELOW_ROLLOUT |= {"_check", "_check_randomness", "_dataflow", "_layout"}


@pytest.mark.parametrize(
    "module, below",
    [
        ("_types", set()),
        ("_scan", set()),
        ("_random", {"_mix32"}),
        ("_spaces", {"_types"}),
        ("_layout", {"_types"}),
        ("_distributions", {"_types"}),
        ("_action_mask", {"_types"}),
        ("_action_head", {"_types", "_spaces", "_distributions", "_action_mask"}),
        ("_encoders", {"_types", "_spaces", "_orthogonal", "_random", "_mix32"}),
        ("_attention", set()),
        ("_block", {"_types", "_trainable", "_attention", *NN}),
        ("_returns", {"_types", "_scan"}),
        ("_envs", {"_types", "_pytree", "_gymnax"}),
        ("_moments", {"_types", "_pytree", "_devices"}),
        # Environments around others, for any agent.
        ("_observe_only", {"_types", "_spaces"}),
        ("_frame_stack", {"_types", "_spaces", "_pytree"}),
        ("_last_action_reward", {"_types", "_spaces", "_pytree"}),
        # What the author of an agent reads, and nothing of PPO, configs or runs.
        ("_rollout", BELOW_ROLLOUT),
        ("_replay", BELOW_ROLLOUT | {"_rollout"}),
        ("_next_value", BELOW_ROLLOUT | {"_rollout"}),
        # Layers are for any Equinox module, so they know nothing of policies and rollouts.
        ("nn/_annealed_dropout", {"_types", "_trainable"}),
        ("nn/_drop_path", {"_types", "nn/_noise"}),
        ("nn/_channel_dropout", {"nn/_noise"}),
        ("nn/_gaussian_dropout", {"nn/_noise"}),
        ("nn/_noisy_linear", {"nn/_noise"}),
        ("nn/_variational", {"_types", "nn/_noise"}),
    ],
)
def test_what_stands_below_a_module(module: str, below: set[str]) -> None:
    reached, front = set(), {module}
    while front:
        front = set().union(*(GRAPH[name] for name in front)) - reached
        reached |= front
    assert reached <= below


def test_testing_is_built_on_the_public_names_alone() -> None:
    """And `import rlscan` does not import it."""
    for name, below in GRAPH.items():
        inside = {other for other in below if other.startswith("testing/")}
        if name.startswith("testing/"):
            assert below - inside <= {"__init__"}
        else:
            assert not inside, f"{name} imports {inside}"


@pytest.mark.parametrize("name", MODULES)
def test_nothing_hides_and_nothing_from_scripts(name: str) -> None:
    source = MODULES[name].read_text()
    assert "TYPE_CHECKING" not in source
    tops = {target.split(".")[0] for target in imported(ast.parse(source)) if target[0] != "."}
    assert not tops & {"scripts", "benchmarks", "tests", "pytest", "hypothesis", "beartype"}


@pytest.mark.parametrize("package", ["rlscan", "rlscan.nn", "rlscan.testing"])
def test_public_names_are_those_of_private_modules(package: str) -> None:
    """`from ._scan import filter_scan as filter_scan`: each name exported on purpose."""
    path = Path(*package.split(".")[1:], "__init__").as_posix()
    tree = ast.parse(MODULES[path].read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name == alias.asname for alias in node.names)
            module = importlib.import_module(package)
            assert all(hasattr(module, alias.name) for alias in node.names)


def test_version_is_that_of_the_distribution() -> None:
    assert rlscan.__version__ == importlib.metadata.version("rlscan")


def test_types_are_shipped() -> None:
    assert importlib.resources.files("rlscan").joinpath("py.typed").is_file()
    assert "Typing :: Typed" in importlib.metadata.metadata("rlscan").get_all("Classifier", [])


def declared(requirements: list[str]) -> set[str]:
    """The names of packages, without extras and versions."""
    return {re.split(r"[\[<>=]", requirement)[0] for requirement in requirements}


def test_core_dependencies_are_those_that_are_imported() -> None:
    """Nothing is imported that is not declared, lazily or not; and of extras nothing at once."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    extras = {k: declared(v) for k, v in project["optional-dependencies"].items() if k != "dev"}
    standard = set(sys.stdlib_module_names)
    # numpy comes with jax, yaml with jsonargparse, both as what they are made of.
    core = declared(project["dependencies"]) | standard | {"rlscan", "numpy", "yaml"}
    # Pillow's name to import is another.
    provided = set().union(core, {"PIL"}, *extras.values())
    for name, file in MODULES.items():
        tree = ast.parse(file.read_text())
        tops = {t.split(".")[0] for t in imported(tree) if t[0] != "."}
        assert tops <= provided, f"{name} imports {tops - provided}"
        at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        tops = {t.split(".")[0] for node in at_once for t in imported(node) if t[0] != "."}
        assert tops <= core, f"{name} imports {tops - core}, which is an extra, at its top"
