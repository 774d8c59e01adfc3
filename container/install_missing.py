"""Installs those pins of a requirements file that the base image doesn't have yet.

Usage: python3 install_missing.py REQUIREMENTS

What the base has keeps its version: its own packages were tested together, and it's the base that
says which numpy the image has. pip refuses if a pin can't live with them, and what it downloads if
that has another hash than the pin's.
"""

import importlib.metadata
import re
import subprocess
import sys
import tempfile
from pathlib import Path


def normalize(name: str) -> str:
    """Return a distribution's name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main(requirements: Path) -> None:
    """Install the missing pins under the constraint of everything that is installed."""
    if not requirements.exists():
        name = requirements.stem.removesuffix("_logic")
        sys.exit(
            f"There is no container/requirements/{requirements.name}. Say what the program needs "
            f"in {requirements.stem}.in beside it, then run: make lock PROGRAM={name}"
        )
    # A package that lies on Python's path twice is imported from the first place.
    installed = reversed(list(importlib.metadata.distributions()))
    base = {normalize(d.name): d.version for d in installed}
    # A pin and its hashes are one line, continued.
    lines = requirements.read_text().replace("\\\n", "").splitlines()
    pins = [line for line in lines if re.match(r"\w", line)]
    missing = [pin for pin in pins if normalize(re.match(r"[\w.-]+", pin)[0]) not in base]
    with tempfile.TemporaryDirectory() as folder:
        wanted, constraints = Path(folder, "missing.txt"), Path(folder, "base.txt")
        wanted.write_text("\n".join(missing))
        constraints.write_text("\n".join(f"{name}=={version}" for name, version in base.items()))
        command = [sys.executable, "-m", "pip", "install", "--no-cache-dir"]
        subprocess.run([*command, "-r", wanted, "-c", constraints], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
