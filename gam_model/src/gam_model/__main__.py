"""The command line: `python -m gam_model page gam.json`."""

import argparse
import json
import sys
from pathlib import Path

from gam_model.page import write_page


def main(arguments=None):
    """
    Run one command.

    Parameters
    ----------
    arguments : list of str, optional
        By default those of the process.

    Returns
    -------
    str or None
        What was wrong, for `sys.exit`.
    """
    parser = argparse.ArgumentParser(prog="python -m gam_model", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    page = commands.add_parser("page", help="write a page that answers, explains and compares")
    page.add_argument("model", type=Path, help="gam.json, as AdditiveModel.save writes it")
    page.add_argument("--to", type=Path, default=Path("page.html"), help="default: page.html")
    page.add_argument("--words", type=Path, help="JSON with the keyword arguments of write_page")
    chosen = parser.parse_args(arguments)
    try:
        words = json.loads(chosen.words.read_text(encoding="utf-8")) if chosen.words else {}
        if not isinstance(words, dict):
            raise ValueError(f"{chosen.words} must hold a JSON object")
        write_page(chosen.model, chosen.to, **words)
    except (OSError, TypeError, ValueError) as error:
        return f"{parser.prog}: {error}"
    print(f"{chosen.to} is the page of {chosen.model}")
    return None


if __name__ == "__main__":
    sys.exit(main())
