"""Run a command for as long as standard input stays open.

The caller holds the other end of the pipe, which closes when the caller exits for any reason, so
no child outlives an interrupted or killed server. It gets SIGTERM, then its group SIGKILL, a few
seconds later, or GRACE seconds if the caller has written anything.

    python supervisor.py GRACE BASE COMMAND [ARGUMENT ...]

BASE is the folder that the command finds at
/opt/ml, where the kernel lets it have mounts of its own; where not, it has to go by
SAGEMAKER_BASE_DIR.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

_HURRY = 5  # seconds between SIGTERM and SIGKILL when the caller has gone
_NEWNS, _NEWUSER = 0x00020000, 0x10000000
_BIND, _REC, _PRIVATE, _DETACH = 0x1000, 0x4000, 0x40000, 2


def main(grace: float, base: str, command: list[str]) -> int:
    """Run the command and return its exit code."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            _mount(base)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_with_stdin, args=[child, grace], daemon=True).start()
    code = child.wait()
    _kill_group(child)  # as a container takes along what its first process leaves behind
    return code


def _end_with_stdin(child: subprocess.Popen, grace: float) -> None:
    is_stopped = sys.stdin.read()
    child.terminate()
    try:
        child.wait(grace if is_stopped else min(grace, _HURRY))
    except subprocess.TimeoutExpired:
        _kill_group(child)


def _kill_group(child: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


# ---------------------------------------------------------------- /opt/ml


def _mount(base: str) -> None:
    """Show this process and its children `base` as /opt/ml, without a trace outside."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(function: str, *arguments: object) -> None:
        encoded = [a.encode() if isinstance(a, str) else a for a in arguments]
        if getattr(libc, function)(*encoded):
            raise OSError(ctypes.get_errno(), function)

    def bind(source: str, target: str) -> None:
        call("mount", source, target, None, _BIND | _REC, None)

    user, group = os.getuid(), os.getgid()
    call("unshare", _NEWNS if user == 0 else _NEWNS | _NEWUSER)
    if user:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    call("mount", "none", "/", None, _REC | _PRIVATE, None)
    if os.path.isdir("/opt/ml"):
        bind(base, "/opt/ml")
        return
    # A /opt of its own, with everything that is there, and room for one folder more.
    aside = os.path.join(base, "..", "there")
    os.mkdir(aside)
    bind("/opt", aside)
    call("mount", "none", "/opt", "tmpfs", 0, None)
    try:
        for entry in os.scandir(aside):
            target = os.path.join("/opt", entry.name)
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), target)
                continue
            os.mkdir(target) if entry.is_dir() else open(target, "x").close()
            bind(entry.path, target)
        os.mkdir("/opt/ml")
        bind(base, "/opt/ml")
    except OSError:
        call("umount2", "/opt", _DETACH)
        raise
    finally:
        call("umount2", aside, _DETACH)
        os.rmdir(aside)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2], sys.argv[3:]))
