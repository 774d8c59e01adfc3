"""The code sent to a job or an endpoint: its location and its requirements.

The words are the SDK's: a source directory travels as sourcedir.tar.gz to a container, which is
told its URI (SAGEMAKER_SUBMIT_DIRECTORY) and the name of its program, the entry point
(SAGEMAKER_PROGRAM). What is sent wins over what the image was built with, and is unpacked into
/opt/ml/code. The image's own program lies in a folder that PYTHONPATH names, so whatever is sent
may import the image's modules, and may bring others of their names.
"""

import os
import shutil
import site
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path("/opt/ml")
REQUIREMENTS = "requirements.txt"
# Beside the code that a job leaves in its model: the name of the program that serves it.
PROGRAM_NOTE = "sagemaker_program"
_DEFAULT_PROGRAM = "inference.py"  # what SageMaker's own servers look for in a model's code/


class SourceError(ValueError):
    """The code that was sent cannot be run."""


def is_sent(uri: str) -> bool:
    """Tell whether a URI names code that was sent, rather than a folder of the container's."""
    return uri.startswith(("s3://", "file://")) or uri.endswith(".tar.gz")


def fetch(uri: str, base: Path) -> Path:
    """Return the folder of the code that a URI names.

    Parameters
    ----------
    uri : str
        ``s3://`` or ``file://``, or a path, of a folder or an archive. ``/opt/ml`` stands for
        `base`.
    base : Path
        SAGEMAKER_BASE_DIR. What has to be unpacked goes to its code/, or to a temporary folder, if
        that one holds something or may not be written to.

    Raises
    ------
    SourceError
        If nothing exists at the URI, it is not an archive, or it cannot be unpacked anywhere.
    """
    path = Path(uri.removeprefix("file://"))
    if path.is_relative_to(ROOT):
        path = base / path.relative_to(ROOT)
    if not is_sent(uri):
        return path
    try:
        folder = _empty_folder(base / "code")
        if path.is_dir():  # a copy, as a program may write to its own folder
            ignored = shutil.ignore_patterns(".git", "__pycache__")
            shutil.copytree(path, folder, ignore=ignored, dirs_exist_ok=True)
        else:
            from sagemaker_training import files  # takes half a second

            files.download_and_extract(uri if uri.startswith("s3://") else str(path), str(folder))
    except Exception as error:  # boto3's, tarfile's, or the file system's
        raise SourceError(
            f"the code at {uri} cannot be unpacked: {_in_one_line(error)}"
        ) from error
    return folder


def _empty_folder(preferred: Path) -> Path:
    if preferred.is_dir() and not any(preferred.iterdir()) and os.access(preferred, os.W_OK):
        return preferred
    return Path(tempfile.mkdtemp(prefix="code-"))


def locate(program: str, *folders: Path) -> Path:
    """Return the first folder that contains a program.

    An archive's only folder counts as the archive itself.

    Raises
    ------
    SourceError
        If none does.
    """
    inside = not Path(program).is_absolute() and ".." not in Path(program).parts
    names: set[str] = set()
    for folder in folders:
        entries = _entries(folder)
        only = entries if len(entries) == 1 and entries[0].is_dir() else []
        for place in (folder, *only):
            if inside and (place / program).is_file():
                return place
        names.update(path.name for path in entries)
    there = ", ".join(sorted(names)) or "nothing"
    raise SourceError(
        f"no program {program!r} in {' or '.join(map(str, folders))}, which holds {there}; "
        "name one by entry_point or SAGEMAKER_PROGRAM"
    )


def _entries(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return [path for path in paths if not path.name.startswith((".", "__pycache__"))]


def locate_own(program: str, folder: Path) -> Path:
    """Return the folder of the image's own program: the given one, or else one on PYTHONPATH.

    Raises
    ------
    SourceError
        If the program is in none of them.
    """
    path = [Path(name) for name in os.environ.get("PYTHONPATH", "").split(os.pathsep) if name]
    return locate(program, *(path if path and not _entries(folder) else [folder]))


def locate_served(program: str, uri: str, base: Path) -> tuple[Path, list[Path]]:
    """Return the program that serves a model, and the folders that its modules lie in.

    What the endpoint was sent wins over the code in the model, and that over the image's own.

    Raises
    ------
    SourceError
        If what was sent cannot be unpacked, or there is no such program.
    """
    packed = base / "model" / "code"
    folder = fetch(uri, base)
    if is_sent(uri) or folder == packed or (folder == base / "code" and _entries(folder)):
        place = locate(program, folder)
        return place / program, [place]
    note = packed / PROGRAM_NOTE
    for name in (program, note.read_text().strip() if note.is_file() else "", _DEFAULT_PROGRAM):
        if name and (packed / name).is_file():
            return packed / name, [packed, folder]
    own = locate_own(program, folder)
    return own / program, [packed, own]


def pack(folder: Path, program: str, model_dir: Path) -> None:
    """Copy the code that trained a model into it, for serving."""
    packed = model_dir / "code"
    if packed.exists():  # written by the program
        return
    ignored = shutil.ignore_patterns(".*", "__pycache__")
    shutil.copytree(folder, packed, ignore=ignored, ignore_dangling_symlinks=True)
    file = packed / program
    if file.is_file() and "model_fn" in file.read_text(encoding="utf-8", errors="replace"):
        (packed / PROGRAM_NOTE).write_text(program + "\n")


# ---------------------------------------------------------------- requirements


def make_python() -> tuple[Path, Path]:
    """Create a virtual environment on top of this one, which stays unchanged.

    Returns
    -------
    python, site_packages : Path
        Its executable, and the folder that its pip installs into.

    Raises
    ------
    SourceError
        If it cannot be created.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="python-"))
        venv.EnvBuilder(symlinks=True).create(folder)
        (site_packages,) = folder.glob("lib/python*/site-packages")
        parents = (f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages())
        (site_packages / "parent.pth").write_text("".join(parents))
    except OSError as error:
        raise SourceError(
            f"cannot create an environment for packages, {_in_one_line(error)}; let the container "
            "write to /tmp"
        ) from error
    # Suppress pip's other output, which would obscure its errors.
    for name in ("DISABLE_PIP_VERSION_CHECK", "NO_INPUT", "NO_WARN_SCRIPT_LOCATION"):
        os.environ.setdefault(f"PIP_{name}", "1")
    return folder / "bin" / "python", site_packages


def install(folders: Sequence[Path]) -> None:
    """Install the requirements.txt of the given folders, and add the packages to sys.path.

    Raises
    ------
    SourceError
        If pip fails.
    """
    files = [folder / REQUIREMENTS for folder in folders if (folder / REQUIREMENTS).is_file()]
    if not files:
        return
    python, site_packages = make_python()
    arguments = [argument for file in files for argument in ("-r", str(file))]
    with subprocess.Popen(
        [str(python), "-m", "pip", "install", *arguments],
        cwd=files[0].parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as pip:
        words = []
        for line in pip.stdout or ():
            print(line, end="", flush=True)
            words.append(line.strip())
    if pip.returncode:
        raise SourceError(explain_pip(words))
    sys.path.insert(0, str(site_packages))


def explain_pip(words: Sequence[str]) -> str:
    """Return, in one sentence, the reason for pip's failure from its output."""
    if any("connection broken by" in line for line in words):
        reason = "no package index can be reached; allow the network, or build an image with it"
    else:
        errors = [line.removeprefix("ERROR: ") for line in words if line.startswith("ERROR: ")]
        reason = (errors or [line for line in words if line] or ["pip failed"])[-1]
    return f"{REQUIREMENTS} cannot be installed: {reason}"


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
