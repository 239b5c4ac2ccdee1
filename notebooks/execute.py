"""Run every notebook of this folder from top to bottom without a screen; any error ends with exit code 1.

``python notebooks/execute.py`` checks; ``--save`` also writes the outputs into the notebooks (metadata that differs
from run to run is left out, so that the same numbers give the same bytes).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
CELL_TIMEOUT_S = 120


def execute(path: Path, *, save: bool) -> bool:
    """Run one notebook; return whether it ran through."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
        record_timing=False,
    )
    try:
        client.execute()
    except CellExecutionError as error:
        print(f"{path.name}: {error}", file=sys.stderr)
        return False
    print(f"{path.name}: {len(notebook.cells)} cells in {time.perf_counter() - started:.1f} s")
    if save:
        notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number}"
            cell.metadata = {}
        nbformat.write(notebook, path)
    return True


def main() -> int:
    """Run all notebooks, or those named on the command line."""
    parser = argparse.ArgumentParser(description="Run the notebooks without a screen.")
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(FOLDER.glob("*.ipynb")))
    parser.add_argument("--save", action="store_true", help="write the outputs into the notebooks")
    options = parser.parse_args()
    results = [execute(path, save=options.save) for path in options.notebooks]
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
