"""Plant faults of one line in the library, and see which ones the quick tests do not find.

    .venv/bin/pip install -c constraints.txt -e '.[dev,mutants]'
    .venv/bin/python tests/mutants.py --results /tmp/mutants.jsonl

Cosmic Ray makes the faults. A sample of them is planted in a copy of the repository, one at a time,
and the tests of that file run until the first one fails. A fault that no test finds is printed as a
diff. Run the same command again to go on where it was interrupted. Run it with other options of
pytest to plant again what was not found: `--options=` checks shapes and types too, as the suite
does, and `--options='-m "slow and not exhaustive"'` runs the long tests that every change must
pass. `mutants.md` beside this file has the outcome.

Cosmic Ray's own runner starts Python for each fault, and importing JAX, gymnax and distrax takes
longer than most of these tests. Here each run is a fork of a process that has imported them.
"""

# pyright: reportMissingImports=false
# Cosmic Ray is an extra.

import argparse
import ast
import compileall
import difflib
import importlib
import json
import os
import py_compile
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parent.parent

# The files in which faults are planted, and the quickest tests that should find them, in the order
# in which they run.
REPLAY = "tests/_rollout/test_replay.py", "tests/policies/test_transformer.py"
ROLLOUT = (
    *("tests/_rollout/test_rollout.py", "tests/_rollout/test_key_schedules.py"),
    *("tests/_rollout/test_memory.py", "tests/_rollout/test_evaluate.py"),
)
UPDATE = (
    *("tests/ppo/test_update_parts.py", "tests/ppo/test_gradient_step.py", "tests/ppo/test_ppo.py"),
    *("tests/ppo/test_divergence.py", "tests/_core/test_devices.py"),
)
TESTS = {
    "rlscan/_rollout/replay.py": REPLAY,
    "rlscan/_rollout/rollout.py": ROLLOUT,
    "rlscan/_rollout/slots.py": ROLLOUT,
    "rlscan/_rollout/gae.py": ("tests/_rollout/test_gae.py",),
    "rlscan/_rollout/next_observation.py": ("tests/_rollout/test_next_observation.py",),
    "rlscan/_rollout/next_value.py": ("tests/_rollout/test_next_value.py",),
    "rlscan/_rollout/used_slots.py": ("tests/_rollout/test_next_value.py",),
    "rlscan/_rollout/blocks.py": ("tests/_rollout/test_blocks.py", "tests/_rollout/test_replay.py"),
    "rlscan/_rollout/layout.py": ("tests/_rollout/test_layout.py",),
    "rlscan/_rollout/statistics.py": ("tests/nn/test_statistics.py",),
    "rlscan/ppo/_update.py": UPDATE,
    "rlscan/ppo/_gradient_step.py": UPDATE,
    "rlscan/ppo/_optimizer.py": (*UPDATE, "tests/ppo/test_optimizer.py"),
    "rlscan/ppo/_hook.py": ("tests/ppo/test_hook.py",),
    "rlscan/ppo/_losses.py": ("tests/ppo/test_losses.py", "tests/ppo/test_ppo.py"),
    "rlscan/ppo/_minibatches.py": ("tests/ppo/test_minibatches.py",),
    "rlscan/ppo/_finite.py": ("tests/ppo/test_divergence.py",),
    "rlscan/ppo/_metrics.py": ("tests/ppo/test_metrics.py", *UPDATE),
    "rlscan/ppo/_recent_returns.py": ("tests/ppo/test_recent_returns.py",),
    "rlscan/ppo/_reward_scaling.py": ("tests/ppo/test_reward_scaling.py",),
    "rlscan/ppo/_config.py": (*UPDATE, "tests/ppo/test_schedule.py"),
    "rlscan/ppo/_schedule.py": ("tests/ppo/test_schedule.py",),
    "rlscan/random/_keys.py": ("tests/random/test_keys.py",),
    "rlscan/random/_mix32.py": ("tests/random/test_mix32.py", "tests/random/test_keys.py"),
}

# Imported once, before the forks. They must not start a backend of JAX, as gymnax does.
PRELOADED = (
    "equinox",
    "optax",
    "distrax",
    "flax.linen",
    "scipy.stats",
    "hypothesis",
    "rlax",
    "pytest",
    "seaborn",
    "gymnasium",
)

# Cosmic Ray replaces each operator by every other one. Most of them raise a `TypeError` on arrays,
# which any test finds.
SIMILAR = {
    **{"Add": ("Sub", "Mul"), "Sub": ("Add",), "Mul": ("Add", "Div"), "Div": ("Mul",)},
    **{"FloorDiv": ("Mul", "Mod"), "Mod": ("FloorDiv",), "Pow": ("Mul",), "MatMul": ()},
    **{"BitAnd": ("BitOr", "BitXor"), "BitOr": ("BitAnd", "BitXor"), "BitXor": ("BitAnd", "Add")},
    **{"RShift": ("LShift",), "LShift": ("RShift",)},
}

UNCHECKED = "--jaxtyping-packages="  # twice as fast as with checks of shapes and types

CPU_SECONDS = 600  # for one fault; one that makes a test endless counts as found


class SwapArguments(Operator):
    """Swap the values of two neighbouring arguments: `f(…, a, b)` or `f(x=a, y=b)`.

    The first argument stays, because another type there is found by any test.
    """

    def mutation_positions(self, node: Any) -> Iterator[tuple]:
        for one, other in self._pairs(node):
            yield one.start_pos, other.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        one, other = list(self._pairs(node))[index]
        code_of = {one: other.get_code(), other: one.get_code()}
        for leaf, code in code_of.items():
            children = leaf.parent.children
            children[children.index(leaf)] = parso.parse(code)
        return node

    @classmethod
    def examples(cls) -> tuple:
        return ()

    @staticmethod
    def _pairs(node: Any) -> Iterator[tuple]:
        if node.type != "arglist" or node.parent.type != "trailer":
            return
        values = [child for child in node.children if child.type != "operator"]
        for i, (one, other) in enumerate(zip(values, values[1:], strict=False)):
            are_named = [v.type == "argument" and v.children[1] == "=" for v in (one, other)]
            if all(are_named):
                yield one.children[2], other.children[2]
            elif i > 0 and "argument" not in (one.type, other.type):
                yield one, other


class Fault(NamedTuple):
    file: str
    line: int
    operator: str
    occurrence: int

    def planted(self, code: str) -> str:
        mutated = mutate_code(code, operator(self.operator), self.occurrence)
        assert mutated is not None, self
        return mutated


def operator(name: str) -> Operator:
    return SwapArguments() if name == "SwapArguments" else get_operator(name)()


def chosen_operators() -> list[str]:
    """List the operators of Cosmic Ray that need no arguments and whose faults may go unseen."""
    names = ["SwapArguments"]
    for name in operator_names():
        binary = re.search("ReplaceBinaryOperator_([A-Za-z]+)_([A-Za-z]+)", name)
        if not get_operator(name).arguments() and (
            binary is None or binary[2] in SIMILAR[binary[1]]
        ):
            names.append(name)
    return names


def lines_without_behaviour(code: str) -> set[int]:
    """The lines of annotations, docstrings, defaults of settings, and refusals."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(code)):
        parts: list[Any] = []
        if isinstance(node, ast.Raise | ast.AnnAssign | ast.Import | ast.ImportFrom):
            parts = [node]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            parts = [node]
        elif isinstance(node, ast.FunctionDef):
            arguments = [each for each in ast.walk(node.args) if isinstance(each, ast.arg)]
            parts = [node.returns, *(argument.annotation for argument in arguments)]
        for part in filter(None, parts):
            lines.update(range(part.lineno, part.end_lineno + 1))
    # The star before keyword-only parameters, which Cosmic Ray takes for a product.
    return lines | {i for i, line in enumerate(code.splitlines(), 1) if line.strip() == "*,"}


def all_faults(file: str) -> list[Fault]:
    code = (ROOT / file).read_text()
    nodes, skipped = list(ast_nodes(get_ast(code))), lines_without_behaviour(code)
    faults = []
    for name in chosen_operators():
        planter = operator(name)
        positions = (start for node in nodes for start, _ in planter.mutation_positions(node))
        faults += [Fault(file, line, name, i) for i, (line, _) in enumerate(positions)]
    return [fault for fault in faults if fault.line not in skipped]


def sample(count: int, seed: int) -> list[Fault]:
    """Draw lines at random, and a fault of each; a prefix is the sample of a smaller count."""
    draw = random.Random(seed)
    by_line: dict[tuple, list[Fault]] = {}
    for fault in (fault for file in TESTS for fault in all_faults(file)):
        by_line.setdefault(fault[:2], []).append(fault)
    lines = list(by_line.values())
    draw.shuffle(lines)
    faults = (next(filter(is_fault, draw.sample(each, len(each))), None) for each in lines)
    return list(islice(filter(None, faults), count))


def is_fault(fault: Fault) -> bool:
    """Whether it is a program, and another one: `a=0, b=0` may have been swapped."""
    code = (ROOT / fault.file).read_text()
    try:
        return ast.dump(ast.parse(fault.planted(code))) != ast.dump(ast.parse(code))
    except SyntaxError:
        return False


def copy_repository(to: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().splitlines():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, to / name)
    # Checked by content: two faults may have one length and one second.
    mode = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(to / "rlscan", quiet=2, invalidation_mode=mode)


class _Cached:
    """A plugin of pytest: programs that a fault does not change are compiled once for all."""

    def pytest_sessionstart(self) -> None:
        import jax

        jax.config.update("jax_enable_compilation_cache", True)
        jax.config.update("jax_compilation_cache_dir", str(Path("cache").resolve()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def run_tests(files: tuple[str, ...], log: Path, options: str) -> str:
    """Run test files in a fork: `passed`, the first test that failed, or `timeout`."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return "timeout" if os.WTERMSIG(status) == signal.SIGXCPU else "crash"
        if os.WEXITSTATUS(status) in (0, 5):  # 5 if no test has these marks
            return "passed"
        found = re.search("^(?:FAILED|ERROR) (.*?)(?: - |$)", log.read_text(), re.MULTILINE)
        return found[1] if found else "error"
    try:
        os._exit(_in_child(files, log, options))
    finally:  # never unwind into the parent's code
        os._exit(os.EX_SOFTWARE)


def _in_child(files: tuple[str, ...], log: Path, options: str) -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    sys.dont_write_bytecode = True
    sys.argv = ["pytest"]
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    import pytest

    words = ["-x", "-q", "-p", "no:cacheprovider", "--tb=short", *shlex.split(options)]
    words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis is preloaded
    try:
        return pytest.main([*words, *files], plugins=[_Cached()])
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()


@cache
def require_green(files: tuple[str, ...], log: Path, options: str) -> None:
    outcome = run_tests(files, log, options)
    assert outcome == "passed", log.read_text()


def plant(fault: Fault, log: Path, options: str) -> dict[str, Any]:
    require_green(TESTS[fault.file], log, options)
    path = Path(fault.file)
    code = path.read_text()
    planted = fault.planted(code)
    diff = difflib.unified_diff(code.splitlines(), planted.splitlines(), n=0, lineterm="")
    try:
        path.write_text(planted)
        start = time.monotonic()
        outcome = run_tests(TESTS[fault.file], log, options)
    finally:
        path.write_text(code)
    seconds = round(time.monotonic() - start)
    changed = "\n".join(line for line in diff if not line.startswith(("---", "+++", "@@")))
    row = {"outcome": outcome, "options": options, "seconds": seconds, "diff": changed}
    return {**fault._asdict(), **row}


def read(results: Path) -> dict[Fault, dict[str, Any]]:
    """Read the last row of each fault."""
    rows = [json.loads(line) for line in results.open()] if results.exists() else []
    return {Fault(*(row[field] for field in Fault._fields)): row for row in rows}


def is_unseen(row: dict[str, Any]) -> bool:
    return row["outcome"] == "passed"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=180, help="number of faults")
    parser.add_argument("--seed", type=int, default=0, help="for the choice of lines and faults")
    parser.add_argument("--file", choices=TESTS, action="append", help="only faults of this file")
    parser.add_argument("--options", default=UNCHECKED, help="those of pytest")
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, one per fault")
    args = parser.parse_args()
    results = args.results.resolve()
    rows = read(results)
    faults = [
        fault
        for fault in sample(args.count, args.seed)
        if fault not in rows or (is_unseen(rows[fault]) and rows[fault]["options"] != args.options)
    ]
    for name in PRELOADED:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        copy_repository(Path(folder))
        os.chdir(folder)
        sys.path.insert(0, folder)
        for fault in faults:
            if not args.file or fault.file in args.file:
                row = plant(fault, Path(folder) / "log", args.options)
                rows[fault] = row
                with results.open("a") as stream:
                    print(json.dumps(row), file=stream)
                if is_unseen(row):
                    print(f"{fault.file}:{fault.line}\n{row['diff']}\n", flush=True)
    survived = sum(is_unseen(row) for row in rows.values())
    print(f"{len(rows)} faults, {len(rows) - survived} found")


if __name__ == "__main__":
    main()
