"""The command that starts the sandbox: bubblewrap with the interpreter, what it needs, and nothing else."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import asdict
from pathlib import Path

from verifiers.sandbox.kernel import Limits

ENVIRONMENT = {
    "PYTHONHASHSEED": "0",  # a verdict is the same whoever gives it
    "MALLOC_ARENA_MAX": "1",  # an arena for each thread would reserve 64 MiB of address space each
    "LANG": "C.UTF-8",
}
INSIDE = (
    *("__init__", "values", "instances", "errors", "syscalls", "kernel"),
    *("blocks", "reading", "common_imports", "runs", "from_tests", "candidate"),
    *("outputs", "fitting", "given", "link", "remote", "checker", "zygote"),
)
"""The modules of this room that exist in the sandbox."""
_PACKAGE_PARENT = "/bonfire"
_NO_USE_INSIDE = re.compile(
    r"(_tkinter|_curses\w*|_ssl|_test\w*|_xx\w*|xx\w*|readline|nis|_g?dbm|ossaudiodev)\."
)
"""Extension modules whose libraries stay outside: a candidate has no display, no terminal and no network."""
_LDD_TIMEOUT_S = 60.0


def isolated_command(limits: Limits) -> list[str]:
    """Bubblewrap around the zygote, by way of the launcher. Raises OSError if it is not installed."""
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise FileNotFoundError("there is no bwrap in PATH")
    room = Path(__file__).parent
    shown = {path: path for path in _interpreter_files()}
    inside = f"{_PACKAGE_PARENT}/verifiers"
    shown[str(room.parent / "__init__.py")] = f"{inside}/__init__.py"
    shown |= {str(room / f"{name}.py"): f"{inside}/sandbox/{name}.py" for name in INSIDE}
    hidden = [path for path in shown.values() if Path(path, "site-packages").is_dir()]
    command = [
        bubblewrap,
        *("--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--as-pid-1"),
        *("--uid", "0", "--gid", "0", "--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"),
        *("--hostname", "sandbox", "--clearenv"),
        *(word for name, value in ENVIRONMENT.items() for word in ("--setenv", name, value)),
        *(word for source, target in shown.items() for word in ("--ro-bind", source, target)),
        *(word for path in hidden for word in ("--tmpfs", f"{path}/site-packages")),
        *(word for path in hidden for word in ("--remount-ro", f"{path}/site-packages")),
        *("--dev-bind", "/dev/null", "/dev/null", "--dir", "/tmp", "--remount-ro", "/", "--chdir", "/"),
        "--",
        *_python_command(_PACKAGE_PARENT, limits, isolated=True, scratch=""),
    ]
    launcher = str(room / "launcher.py")
    return [sys.executable, "-I", "-S", launcher, json.dumps([bubblewrap, *shown]), *command]


def plain_command(limits: Limits, scratch: str) -> list[str]:
    """The zygote as an ordinary process: no isolation. Candidates get directories of their own in `scratch`."""
    parent = str(Path(__file__).resolve().parents[2])
    return _python_command(parent, limits, isolated=False, scratch=scratch)


def _python_command(package_parent: str, limits: Limits, *, isolated: bool, scratch: str) -> list[str]:
    program = (
        f"import sys; sys.path.insert(0, {package_parent!r}); "
        "from verifiers.sandbox.zygote import main; from verifiers.sandbox.kernel import Limits; "
        f"main(Limits(**{asdict(limits)!r}), isolated={isolated}, scratch={scratch!r})"
    )
    # -s -S -P: no site-packages, nothing of the current directory. Not -I, which would ignore PYTHONHASHSEED.
    return [_interpreter(), "-s", "-S", "-P", "-B", "-c", program]


def _interpreter() -> str:
    """The interpreter behind a virtual environment."""
    return os.path.realpath(sys.executable)


@functools.cache
def _interpreter_files() -> tuple[str, ...]:
    """The interpreter, its standard library, and the shared libraries of both, as paths to be shown in place."""
    standard_library = Path(sysconfig.get_path("stdlib"))
    extensions = Path(sysconfig.get_config_var("DESTSHARED"))
    programs = [_interpreter(), *map(str, sorted(extensions.glob("*.so")))]
    needed = [program for program in programs if not _NO_USE_INSIDE.match(Path(program).name)]
    listing = subprocess.run(
        ["ldd", *needed],
        capture_output=True,
        text=True,
        timeout=_LDD_TIMEOUT_S,
        check=True,
        env={"LC_ALL": "C"} | os.environ,
    ).stdout
    libraries = re.findall(r"(?:=> |^\t)(/\S+) \(0x", listing, re.MULTILINE)
    return tuple(dict.fromkeys([_interpreter(), str(standard_library), *libraries]))
