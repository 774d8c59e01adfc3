"""The command ``serve``."""

import os
import signal
import sys


def main() -> None:
    """Load the model, then answer requests until SIGTERM."""
    # Before even the imports: PID 1 of a container ignores SIGTERM until it has a handler.
    # SageMaker's contract counts the exit after SIGTERM as a success.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: os._exit(0))

    import asyncio
    import gc
    import logging
    import time

    import uvloop

    from model_server import source
    from model_server.app import App, listen
    from model_server.program import Program
    from model_server.settings import Settings, count_cores

    start = time.monotonic()
    try:
        settings = Settings.from_environ(os.environ)
        logging.basicConfig(level=settings.log_level, format="%(message)s", stream=sys.stdout)
        # Workers share the cores, so limit the threads of the program's libraries in each.
        threads = str(max(1, count_cores() // settings.workers))
        for library in ("OMP", "OPENBLAS", "MKL"):
            os.environ.setdefault(f"{library}_NUM_THREADS", threads)
        path, folders = source.locate_served(settings.program, settings.code_uri, settings.base)
        source.install(folders)
        program = Program(path, folders, settings.base / "model")
        app = App(program, settings)
    except BaseException as error:  # even SystemExit, whose code may be 0
        reason = " ".join(str(error).split())
        sys.exit(f"serve: cannot load the model: {type(error).__name__}: {reason}")
    seconds = time.monotonic() - start
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        sys.exit(f"serve: cannot listen on {settings.host}:{settings.port}: {error}")
    gc.collect()
    gc.freeze()  # otherwise a worker's first collection would copy the shared memory
    print(
        f"serve: {program.path} and its model loaded in {seconds:.1f} s\n"
        f"serve: workers: {settings.workers}, seconds for a request: {settings.timeout}, "
        f"bytes of a body: {settings.body_limit}, of all bodies: {settings.body_budget}\n"
        f"serve: listening on {settings.host}:{settings.port}",
        flush=True,
    )

    async def serve() -> None:
        stop = asyncio.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        await app.serve(listener, stop)

    uvloop.run(serve())  # a tenth to a fifth more requests a second than asyncio's own loop
