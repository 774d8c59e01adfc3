"""SageMaker's API on this machine, for any client.

Prints what a shell exports to use it, and stays until Ctrl-C, which stops its jobs and endpoints.
`python -m local_mode train FILE --target COLUMN` trains on a file instead, and
`python -m local_mode page ENDPOINT` serves a page in front of an endpoint.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from local_mode import loopback
from local_mode.server import REGION, Server

PORT = 4600


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["page"]:
        from local_mode import page

        sys.exit(page.main(sys.argv[2:]))
    if sys.argv[1:2] == ["train"]:
        from local_mode import train

        sys.exit(train.main(sys.argv[2:]))
    parser = argparse.ArgumentParser(
        prog="python -m local_mode",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--port", type=int, default=PORT, help="0 for a free one (default: %(default)s)"
    )
    parser.add_argument("--region", default=REGION, help="default: %(default)s")
    parser.add_argument(
        "--program",
        default="model_logic.py",
        help="the file of code/ that images run, unless a job is sent code (default: %(default)s)",
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="sagemaker-", ignore_cleanup_errors=True) as folder:
        try:
            server = Server(
                Path(folder).resolve(), arguments.region, arguments.program, arguments.port
            )
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            sys.exit(f"port {arguments.port} cannot be used, {reason}; name another, or 0")
        with loopback.environment(server.url, arguments.region):  # of the jobs
            try:
                print(
                    f"export AWS_ENDPOINT_URL={server.url}\n"
                    "export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local\n"
                    f"export AWS_DEFAULT_REGION={arguments.region}\n"
                    "# a page in front of an endpoint: python -m local_mode page ENDPOINT",
                    flush=True,
                )
                signal.pause()
            except KeyboardInterrupt:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            finally:
                server.close()


if __name__ == "__main__":
    main()
