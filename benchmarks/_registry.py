"""The benchmarks of the suite, and the studies, which have command lines of their own."""

import ast
from pathlib import Path

from benchmarks import devices, levers, rollout, startup, switches, threads, training
from benchmarks._benchmark import Benchmark

# To add one, write a file with a `BENCHMARK` and name it here. They run in this order.
BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (rollout, training, threads, devices, levers, switches, startup)
}


def studies() -> dict[str, str]:
    """The studies by name, each with the first line of its docstring."""
    folder = Path(__file__).parent
    files = {file.parent.name: file for file in sorted(folder.glob("*/__main__.py"))}
    docs = {name: ast.get_docstring(ast.parse(file.read_text())) for name, file in files.items()}
    return {name: (doc or "").partition("\n")[0] for name, doc in docs.items()}
