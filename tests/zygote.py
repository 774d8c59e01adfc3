"""Run programs from a process that has made their imports already, which take most of the time.

It reads one task a line from its standard input, and forks: the child is what the training toolkit
would start, with the toolkit's own environment and arguments, but not its second process.
"""

import importlib
import json
import os
import runpy
import sys
from pathlib import Path

# What the programs import. The programs are the job's own, so they are not here.
for module in (
    "explainers",
    "gam_model.plots",
    "gam_model.report",
    "joblib",
    "matplotlib.backends.backend_agg",
    "pandas",
    "program_toolkit.job",
    "pyarrow.parquet",
    "sagemaker_training.environment",
    "scipy.stats",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.metrics",
    "statsmodels.gam.api",
):
    importlib.import_module(module)


def main() -> None:
    """Run tasks until the standard input ends."""
    for line in sys.stdin:
        task = json.loads(line)
        child = os.fork()
        if not child:
            be_program(Path(task["program"]), task["environ"], task["log"])
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def be_program(path: Path, environ: dict[str, str], log: str) -> None:
    """Be the program, in an environment such as the toolkit makes it."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    for standard, fd in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(fd, standard)
    os.environ.clear()
    os.environ.update(environ)
    del sys.modules["sagemaker_training.environment"]  # it reads its paths once
    from sagemaker_training.environment import Environment

    code = 1
    try:
        environment = Environment()
        os.environ.update(environment.to_env_vars())
        sys.argv = [str(path), *environment.to_cmd_args()]
        sys.path[0] = str(path.parent)
        runpy.run_path(str(path), run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
