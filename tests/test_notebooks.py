"""The notebooks, executed as in Jupyter."""

import warnings
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "examples" / "notebooks").glob("*.py"))


def test_there_are_notebooks():
    assert [script.stem for script in SCRIPTS] == ["algorithm", "own", "rollout", "training"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_notebook_is_a_script_of_cells(script):
    """It begins with a title, and its code compiles."""
    source = script.read_text()
    assert source.startswith("# %% [markdown]\n# # ")
    compile(source, str(script), "exec")


@pytest.mark.slow(cases="all")
@pytest.mark.exhaustive
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_notebook_runs_and_shows_its_plots(script, tmp_path):
    jupytext = pytest.importorskip("jupytext")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = jupytext.read(script)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Jupyter's own
        client.execute()
    jupytext.write(notebook, tmp_path / f"{script.stem}.ipynb")  # for a look, with `--basetemp`
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == script.read_text().count("plt.show()") > 0
    errors = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not [text for text in errors if "Warning" in text or "Traceback" in text]
