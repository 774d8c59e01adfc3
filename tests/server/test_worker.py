import re
from pathlib import Path

from model_server.worker import TRANSITIONS, State

README = Path(__file__).parents[2] / "container" / "server" / "README.md"


def test_the_readme_draws_every_transition():
    drawn = re.findall(r"(\w+) --> (\w+): (\w+)", README.read_text())
    assert {(State[a], event): State[b] for a, b, event in drawn} == TRANSITIONS
    assert len(drawn) == len(TRANSITIONS)
