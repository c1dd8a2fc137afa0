#!/usr/bin/env python3
"""Makes .venv with exactly the packages of requirements.lock; does nothing when it is up to date.

Needs Python 3.11 or newer and its venv module, and nothing installed: make calls it. `make install`.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "installed.sha256"
LOCK = ROOT / "requirements.lock"
OLDEST = (3, 11)


def fingerprint():
    """Changes when the lock or the list of packages does, or when the folder was moved (scripts hold its path)."""
    text = LOCK.read_bytes() + (ROOT / "pyproject.toml").read_bytes() + str(ROOT).encode()
    return hashlib.sha256(text).hexdigest()


def find_python():
    """This interpreter if it is new enough, else the newest python3.X on the PATH that is."""
    if sys.version_info >= OLDEST:
        return sys.executable
    for minor in range(14, OLDEST[1] - 1, -1):
        if shutil.which(f"python3.{minor}"):
            return shutil.which(f"python3.{minor}")
    version = ".".join(map(str, sys.version_info[:3]))
    sys.exit(
        f"{sys.executable} is Python {version}; 3.11 or newer is needed: install it, or use environment.yml (conda)"
    )


def was_moved():
    """Whether .venv was made for another folder: its scripts would call a Python that is not there, or another one."""
    lines = (VENV / "pyvenv.cfg").read_text().splitlines()
    return not any(line.startswith("command") and line.endswith(f" {VENV}") for line in lines)


def make_venv():
    """A new .venv, unless there is one in its place whose Python still starts."""
    works = PYTHON.exists() and subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True).returncode == 0
    if works and not was_moved():
        return
    if subprocess.run([find_python(), "-m", "venv", "--clear", VENV]).returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit("Python cannot make a virtual environment: install its venv module (Debian and Ubuntu: "
                 "apt install python3-venv), or use environment.yml (conda)")  # fmt: skip


def uv_requirement():
    """The lines of the lock that pin uv, with their hashes."""
    lines = LOCK.read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("uv=="))
    end = next(index for index in range(start, len(lines)) if not lines[index].endswith("\\"))
    return "\n".join(lines[start : end + 1]) + "\n"


def run(*command):
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        sys.exit(f"failed: {' '.join(map(str, command))}\nCheck the network and the disk (7 GB), then run it again.")


def main():
    if STAMP.exists() and STAMP.read_text() == fingerprint() and PYTHON.exists():
        return
    make_venv()
    pin = VENV / "uv.lock.txt"
    pin.write_text(uv_requirement())
    print("installing the packages of requirements.lock into .venv (about 7 GB)", flush=True)
    run(PYTHON, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", pin)
    # compiled now, once: where Python may not write bytecode, every process of every stage would do it again
    # the certificates of the system, as pip does: a university or a company may have its own
    uv_install = (PYTHON, "-m", "uv", "pip", "install", "--quiet", "--system-certs", "--compile-bytecode", "--python", PYTHON)
    run(*uv_install, "--require-hashes", "-r", LOCK)
    run(*uv_install, "--no-deps", "--no-build-isolation", "--editable", ROOT)
    STAMP.write_text(fingerprint())


if __name__ == "__main__":
    main()
