"""Memory that one process reads while another writes it."""

import contextlib
import os
import signal
import time

import pytest

from model_server.ledger import Ledger


@pytest.fixture
def in_worker():
    """Run a function in a process of its own, until the test ends."""
    with contextlib.ExitStack() as stack:

        def run(function):
            pid = os.fork()
            if not pid:
                function()
                os._exit(0)
            stack.callback(os.waitpid, pid, 0)
            stack.callback(os.kill, pid, signal.SIGKILL)

        yield run


def test_a_count_never_falls(in_worker):
    ledger = Ledger(n_cells=2)

    def count():
        while True:
            ledger.add(1, 1)

    in_worker(count)
    until, before = time.monotonic() + 1, 0
    while time.monotonic() < until:
        first, second = ledger.cells()
        assert first == 0
        assert second >= before
        before = second
    assert before > 1000


def test_all_that_was_sent_is_collected_whatever_is_being_claimed(in_worker):
    ledger = Ledger()
    for slot in range(3):
        ledger.lend(slot)
    done, say = os.pipe()

    def work():
        while True:
            for _ in range(20):
                ledger.claim(1)
                ledger.note_answer(200, 1, 2, 3, 0.5)
                ledger.note_sent()
            os.write(say, b"x")
            while not ledger.was_recalled():
                assert ledger.claim(2)
                ledger.withdraw()

    in_worker(work)
    for i in range(300):
        assert os.read(done, 1)
        until = time.monotonic() + i % 100 / 1e6  # at any moment of a claim
        while time.monotonic() < until:
            pass
        records = ledger.collect_sent()
        assert [record[:1] + record[2:7] for record in records] == [(1, 200, 1, 2, 3, 0.5)] * 20
        pending = ledger.pending()
        assert pending is None or time.monotonic() - pending.received < 10
        ledger.recall()


def test_a_slot_that_the_worker_released_is_not_revoked():
    ledger = Ledger()
    for slot in range(3):
        ledger.lend(slot)
    assert ledger.claim(0)
    ledger.release(0)
    ledger.withdraw()
    assert ledger.claim(2)
    assert ledger.revoke() == {1}
    assert ledger.pending().slot == 2
    ledger.withdraw()
    assert [ledger.claim(slot) for slot in range(3)] == [False, False, True]
