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
    """List the modules that a module imports anywhere; relative names keep their dots."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            # `from . import _rollout` imports a module too
            names += [base] if node.module else [base + alias.name for alias in node.names]
    return names


def siblings(name: str, tree: ast.AST) -> set[str]:
    """The rlscan modules that a module imports, by their paths as in `MODULES`.

    A package stands for its `__init__`.
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
    """Find one cycle of the graph; empty if its nodes can be sorted."""
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
    assert siblings("_x", ast.parse(lazy)) == {"_rollout/__init__", "_scan", "__init__"}


def test_a_subpackage_is_seen_from_both_sides() -> None:
    inside = "from .._core.types import A\nfrom .. import _scan\nfrom ._dropout import B"
    assert siblings("nn/_x", ast.parse(inside)) == {"_core/types", "_scan", "nn/_dropout"}
    for outside in ("from . import nn as nn", "from .nn import DropPath", "import rlscan.nn"):
        assert siblings("_x", ast.parse(outside)) == {"nn/__init__"}


def test_imports_form_a_line() -> None:
    """Imports inside functions count too, because they can hide a cycle."""
    assert {"_core/types", "_core/scan", "_rollout/rollout", "__init__"} <= GRAPH.keys()
    assert GRAPH["__init__"] > {"_rollout/rollout", "_core/scan"}
    assert set().union(*GRAPH.values()) <= GRAPH.keys()
    # `rlscan/__init__.py` imports `testing`, which is written with `import rlscan`.
    assert cycle({**GRAPH, "__init__": GRAPH["__init__"] - {"testing/__init__"}}) == []


def rooms_of(contributing: str) -> dict[str, set[str]]:
    """The rooms that each room may import, from the table in CONTRIBUTING.md."""
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|$", contributing, re.MULTILINE)
    return {room: set(re.findall(r"`(\w+)`", below)) for room, below in rows}


ROOMS = rooms_of((PACKAGE.parent / "CONTRIBUTING.md").read_text())


def test_the_table_of_rooms_is_read() -> None:
    table = "| room | holds | imports |\n|---|---|---|\n| `a` | A | – |\n| `b` | B | `a`, `c` |\n"
    assert rooms_of(table) == {"a": set(), "b": {"a", "c"}}
    assert len(ROOMS) == 12


def test_the_top_holds_only_rooms() -> None:
    allowed = {"__init__.py", "__main__.py", "_version.py", "py.typed", "__pycache__"}
    assert {path.name for path in PACKAGE.iterdir()} - allowed == set(ROOMS)
    assert cycle(ROOMS) == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_those_below_it(room: str) -> None:
    """The table in CONTRIBUTING.md lists exactly the imports between rooms."""
    found = set()
    for name in (name for name in GRAPH if name.startswith(f"{room}/")):
        found |= {other.split("/")[0] for other in GRAPH[name]} - {room, "_version"}
    wanted = ROOMS[room] if room != "testing" else {"__init__"}
    assert found == wanted


@pytest.mark.parametrize(
    "module, below",
    [
        ("_core/types", set()),
        ("_core/scan", set()),
        ("_core/spaces", {"_core/types"}),
        ("random/_keys", {"random/_mix32"}),
        ("_rollout/layout", {"_core/types"}),
        ("_rollout/gae", {"_core/nan"}),
        ("policies/_distributions", {"_core/types"}),
        (
            "policies/_action_head",
            {
                *("_core/types", "_core/spaces", "_core/require", "_core/nan"),
                "policies/_distributions",
            },
        ),
        # The modules that the author of an agent reads.
        ("_rollout/replay", {"_core", "nn", "random", "_rollout", "_version"}),
        ("_rollout/next_value", {"_core", "nn", "random", "_rollout"}),
        ("_rollout/next_observation", {"_core", "_rollout/state"}),
        # Wrappers of environments, for any agent.
        (
            "envs/_wrappers",
            {
                *("_core/environment", "_core/roles", "_core/types"),
                *("_core/spaces", "_core/tree", "_core/require"),
            },
        ),
    ],
)
def test_a_module_depends_on_few_others(module: str, below: set[str]) -> None:
    reached, front = set(), {module}
    while front:
        front = set().union(*(GRAPH[name] for name in front)) - reached
        reached |= front
    assert {name for name in reached if name.split("/")[0] not in below} <= below


FLAT = """
rollout init_rollout replay next_value next_observation gae evaluate check_policy explain_ratio
filter_scan key make train fit load_policy move_statistics transition_bytes
Policy SequencePolicy Environment Distribution
RolloutState Trajectory Transition FinalObservations Evaluation Spread AuditError
configure_cpu num_cores make_mesh on_devices __version__
""".split()

PUBLIC_ROOMS = ["envs", "nn", "policies", "ppo", "random", "runs", "testing"]

# The names of `rlscan` before it had rooms. They must stay importable.
PROMISED = """
ActionHead ActorCritic AuditError Distribution Divergence DivergenceError ENVIRONMENTS Encoder
Environment Evaluation ExportedPolicy FinalObservations FrameStack GENERATORS GymnaxEnvironment
KeepsStatistics KeyData LastActionReward Logger Loggers METRICS Metrics Minibatch NonTrainable
NormalizedObservations ObserveOnly PPOConfig Policy RecurrentActorCritic RewardScaling RolloutState
SequencePolicy Spread Steps TrainState Trajectory TransformerActorCritic WithStatistics action_mask
bootstrap_interval check_policy clipped_policy_loss clipped_value_loss configure_cpu evaluate
explain_divergence explain_ratio export filter_scan gae init_reward_scaling init_rollout init_train
iqm key key_data keys_from_data load_exported load_policy make make_mesh mix32 move_statistics
next_value nn normalize num_cores on_devices partition_trainable ppo_loss read_metrics replay
reset_where rollout scale_rewards fit train train_scan transition_bytes update __version__
""".split()


def test_the_flat_names_are_few() -> None:
    assert sorted(rlscan.__all__) == sorted([*FLAT, *PUBLIC_ROOMS])
    assert dir(rlscan) == sorted(rlscan.__all__)
    assert all(hasattr(rlscan, name) for name in rlscan.__all__)


def test_names_that_were_promised_are_importable() -> None:
    """Type checkers and editors see plain imports, but not `__getattr__`."""
    assert not hasattr(rlscan, "__getattr__")
    assert [name for name in PROMISED if not hasattr(rlscan, name)] == []
    assert rlscan.testing.DEFECTS


def test_testing_uses_only_public_names() -> None:
    for name, below in GRAPH.items():
        inside = {other for other in below if other.startswith("testing/")}
        if name.startswith("testing/"):
            assert below - inside <= {"__init__"}
        elif name != "__init__":
            assert not inside, f"{name} imports {inside}"


@pytest.mark.parametrize("name", MODULES)
def test_no_import_is_hidden_and_none_is_from_scripts(name: str) -> None:
    source = MODULES[name].read_text()
    assert "TYPE_CHECKING" not in source
    tops = {target.split(".")[0] for target in imported(ast.parse(source)) if target[0] != "."}
    assert not tops & {"scripts", "benchmarks", "tests", "pytest", "hypothesis", "beartype"}


@pytest.mark.parametrize("package", ["rlscan", *(f"rlscan.{room}" for room in PUBLIC_ROOMS)])
def test_public_names_come_from_private_modules(package: str) -> None:
    """Each name is exported explicitly: `from ._scan import filter_scan as filter_scan`."""
    path = Path(*package.split(".")[1:], "__init__").as_posix()
    tree = ast.parse(MODULES[path].read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name == alias.asname for alias in node.names)
            module = importlib.import_module(package)
            assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("room", PUBLIC_ROOMS)
def test_help_of_a_room_describes_its_names(room: str) -> None:
    """`help` leaves out what a package imports, unless `__all__` lists it."""
    tree = ast.parse(MODULES[f"{room}/__init__"].read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    names = [alias.asname for node in imports for alias in node.names]
    assert getattr(rlscan, room).__all__ == names


def test_version_equals_that_of_the_distribution() -> None:
    assert rlscan.__version__ == importlib.metadata.version("rlscan")


def test_types_are_shipped() -> None:
    assert importlib.resources.files("rlscan").joinpath("py.typed").is_file()
    assert "Typing :: Typed" in importlib.metadata.metadata("rlscan").get_all("Classifier", [])


def declared(requirements: list[str]) -> set[str]:
    """The names of declared packages, without extras and versions."""
    return {re.split(r"[\[<>=]", requirement)[0] for requirement in requirements}


def test_core_dependencies_are_exactly_the_imported_ones() -> None:
    """Every imported package is declared, and packages of extras are only imported lazily."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    extras = {k: declared(v) for k, v in project["optional-dependencies"].items() if k != "dev"}
    standard = set(sys.stdlib_module_names)
    # jax depends on numpy, and jsonargparse on yaml and docstring_parser.
    core = declared(project["dependencies"]) | standard
    core |= {"rlscan", "numpy", "yaml", "docstring_parser"}
    # Some are imported by other names.
    provided = {"PIL", "imageio_ffmpeg", "mujoco_playground"}.union(core, *extras.values())
    for name, file in MODULES.items():
        tree = ast.parse(file.read_text())
        tops = {t.split(".")[0] for t in imported(tree) if t[0] != "."}
        assert tops <= provided, f"{name} imports {tops - provided}"
        at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        tops = {t.split(".")[0] for node in at_once for t in imported(node) if t[0] != "."}
        assert tops <= core, f"{name} imports {tops - core}, which is an extra, at its top"
