"""The command ``serve``."""

import logging
import os
import signal
import sys

import uvicorn

from model_server.app import App
from model_server.program import Program
from model_server.settings import Settings


def main() -> None:
    """Load the model, then answer requests until SIGTERM."""
    # SageMaker's contract calls the end after SIGTERM a success. Later uvicorn finishes what is
    # running, then raises the signal again for this handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        settings = Settings.from_environ(os.environ)
        program = Program(settings.program, settings.code_dir, settings.model_dir)
    except Exception as error:
        sys.exit(f"serve: cannot load the model: {type(error).__name__}: {error}")
    print(
        f"serve: {settings.program} from {settings.code_dir}, "
        f"listening on {settings.host}:{settings.port}",
        flush=True,
    )
    uvicorn.run(
        App(program, settings),
        host=settings.host,
        port=settings.port,
        lifespan="off",
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=25,  # SIGKILL comes after 30 s
    )
