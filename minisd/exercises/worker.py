"""The process in which answers are tried, and its limits; handed_in.py starts it.

    python -m minisd.exercises.worker warm    for Linux: imports everything once, then forks a process for each answer
    python -m minisd.exercises.worker once    elsewhere: tries a single answer in this very process

A request is a line of JSON on its input: the notebook's cells, the number of the exercise, seconds, an empty folder.
A reply is a line of JSON on its output, or an empty line if the answer ended its process. The warm process never runs
an answer itself, and takes what comes out of one as mere bytes.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from minisd.exercises import chapters
from minisd.exercises.answers import try_out

MEMORY, FILE = 2**30, 2**24  # bytes, beyond those of the imports, and of each file
LONGEST = 2**22  # bytes of a reply
SUBREAPER, DEATH_SIGNAL = 36, 1  # options of Linux's prctl


def reply_to(request: dict[str, Any]) -> bytes:
    """Try the answer, here and now."""
    reply = json.dumps(try_out(request["sources"], request["number"])).encode()
    return reply if len(reply) < LONGEST else json.dumps({"problem": "It returned too much"}).encode()


def limit(folder: str, seconds: int) -> None:
    """Put this process into the folder, and bound what it may use, where the system has such bounds."""
    os.chdir(folder)
    os.environ.update(dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR", "TMP", "TEMP"), folder))
    tempfile.tempdir = None  # to be found anew
    with contextlib.suppress(ImportError):
        import resource

        bounds = {"RLIMIT_CPU": seconds + 10, "RLIMIT_FSIZE": FILE, "RLIMIT_CORE": 0, "RLIMIT_NPROC": 0}
        with contextlib.suppress(OSError):  # only Linux tells how much is in use, most of it by the imports
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            bounds["RLIMIT_AS"] = pages * resource.getpagesize() + MEMORY
        for name, bound in bounds.items():
            with contextlib.suppress(AttributeError, ValueError, OSError):
                resource.setrlimit(getattr(resource, name), (bound, bound))


def fork_and_reply(request: dict[str, Any]) -> bytes:
    """Try the answer in a child with a session of its own, and end all that it started. Linux only."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setsid()
            ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)  # when the warm process dies
            os.dup2(writing, 3, inheritable=False)
            for handle in map(int, os.listdir("/proc/self/fd")):
                with contextlib.suppress(OSError):  # the one that listed them
                    os.close(handle) if handle > 3 else None
            limit(request["folder"], request["seconds"])
            os.write(3, reply_to(request) + b"\n")
        finally:
            os._exit(0)
    os.close(writing)
    try:
        return first_line(reading, request["seconds"])
    finally:
        os.close(reading)
        end(child)


def first_line(source: int, seconds: float) -> bytes:
    """What is written into a pipe, up to the end of the line; empty if it is closed before."""
    deadline, line = time.monotonic() + seconds, b""
    while b"\n" not in line:
        if not select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return json.dumps({"problem": f"Stopped after {seconds} seconds"}).encode()
        new = os.read(source, 2**16)
        line += new
        if not new or len(line) > LONGEST:
            return b""
    return line[:line.index(b"\n")]


def end(child: int) -> None:
    """End a child and its group, then those of its descendants that left the group: they are this process's now."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(OSError):  # a kernel that keeps no such list, a child that another user owns
        while strays := children.read_text().split():
            for stray in map(int, strays):
                os.kill(stray, signal.SIGKILL)
                os.waitpid(stray, 0)


def main(mode: str) -> None:
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):  # nothing is read or printed
        os.dup2(nowhere, handle)
    torch.set_num_threads(1)
    chapters()
    importlib.import_module("minisd.plot")  # notebooks import it, and matplotlib takes its time
    if mode == "warm":
        ctypes.CDLL(None).prctl(SUBREAPER, 1)
        gc.freeze()  # so that answers share the memory, and do not find it with `gc`
    replies.write(b"ready\n")
    replies.flush()
    for line in requests:
        request = json.loads(line)
        if mode == "once":
            limit(request["folder"], request["seconds"])
        replies.write((fork_and_reply if mode == "warm" else reply_to)(request) + b"\n")
        replies.flush()


if __name__ == "__main__":
    main(sys.argv[1])
