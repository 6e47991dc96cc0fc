"""Configs by name: those in `configs/`, which an installed package carries."""

from pathlib import Path


def named_configs() -> dict[str, Path]:
    """The files of the configs that come with rlscan, by name."""
    here = Path(__file__).parent
    carried = here / "configs"  # in an installed package; a checkout has the folder at its root
    folder = carried if carried.is_dir() else here.parents[1] / "configs"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find_config(path: str) -> str:
    """The file that `--config` means: `path`, or if there is none, the config of that name."""
    return path if Path(path).is_file() else str(named_configs().get(path, path))


def summary(file: Path) -> str:
    """The first sentence of the comment at the top of a config."""
    text = file.read_text(encoding="utf-8")
    lines = [
        line[1:].strip() for line in text.partition("\nenv:")[0].splitlines() if line[:1] == "#"
    ]
    return " ".join(lines).partition(". ")[0].rstrip(".")
