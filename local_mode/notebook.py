"""Run a notebook from top to bottom and print the output of its cells.

Usage: python -m local_mode.notebook NOTEBOOK [--save EXECUTED_COPY]
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def run(notebook: Path, save: Path | None = None) -> None:
    """Run a notebook in its own folder.

    Parameters
    ----------
    notebook : Path
    save : Path, optional
        File for the executed copy.

    Raises
    ------
    CellExecutionError
        If a cell fails.
    """
    content = nbformat.read(notebook, as_version=4)

    def print_output(cell, cell_index, execute_reply) -> None:
        for output in cell.get("outputs", []):
            print(output.get("text", ""), end="", flush=True)

    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        # Keep kernel files out of the home folder.
        os.environ.update(IPYTHONDIR=folder, JUPYTER_RUNTIME_DIR=folder)
        client = NotebookClient(
            content,
            timeout=1800,
            kernel_name="python3",
            extra_arguments=["--IPKernelApp.log_level=40"],  # log only the kernel's errors
            resources={"metadata": {"path": str(notebook.resolve().parent)}},
            on_cell_executed=print_output,
        )
        try:
            client.execute()
        finally:
            if save is not None:
                save.parent.mkdir(parents=True, exist_ok=True)
                nbformat.write(content, save)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--save", type=Path, help="file for the executed copy")
    arguments = parser.parse_args()
    try:
        run(arguments.notebook, arguments.save)
    except CellExecutionError as error:
        # The SDK makes rich print tracebacks, so they are not part of the error's text.
        sys.exit(f"{error}\n{error.ename}: {error.evalue}")


if __name__ == "__main__":
    main()
