"""Trying an answer in a process apart: this side starts the process, waits, reads values, and runs nothing of it."""

import contextlib
import json
import os
import queue
import secrets
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import minisd
from minisd.exercises import Attempt, Exercise, judge
from minisd.exercises.values import unpack

SECONDS, STARTING = 60, 600  # for one answer (the course's own take less than one second), and for a process to start
LONGEST = 2**23  # bytes of a reply; the worker sends less
WARM = sys.platform == "linux"  # macOS's libraries do not survive a fork, and Windows has none
KEPT = ("PATH", "SYSTEMROOT", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONHOME", "MKL_CBWR")  # of the environment
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class Worker:
    """Where answers are tried: a context that ends with its processes and folders.

    On Linux there is one process, which forks another for each answer (in milliseconds); elsewhere each answer
    gets a fresh Python, which takes seconds.
    """

    def __enter__(self) -> "Worker":
        self.home = tempfile.mkdtemp(prefix="minisd-answers-")
        self.process: subprocess.Popen | None = None
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        remove(self.home)

    def verdict(self, sources: list[str], number: str, exercise: Exercise) -> str:
        """Try an answer and judge what it returns; whatever goes wrong is said, not raised.

        Args:
            sources: the notebook's code cells.
            number: the exercise, such as "1.2".
        """
        try:
            reply = json.loads(self.ask(sources, number))
            if not reply:
                return "not in the notebook"
            if "problem" in reply:
                return f"{str(reply['problem'])[:100]}: look at it."
            values = [unpack(value) for value in reply.get("values", [])]
            return judge(Attempt(values, str(reply.get("error", ""))[:300], bool(reply.get("stub"))), exercise)
        except Exception as error:  # something forged, or so large or deep that it cannot be compared
            return f"It could not be judged ({type(error).__name__}): look at it."

    def ask(self, sources: list[str], number: str) -> bytes:
        """What comes of an answer, as JSON; see `answers.try_out`."""
        os.makedirs(self.home, exist_ok=True)  # an answer can remove it
        folder = tempfile.mkdtemp(dir=self.home)
        request = {"sources": sources, "number": number, "seconds": SECONDS, "folder": folder}
        line, late = b"", False
        with contextlib.suppress(BrokenPipeError):  # the process ended since the last answer
            process = self.process or self.start()
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line, late = self.wait_for_line(SECONDS + 30 if WARM else SECONDS)
        if not WARM or not line.endswith(b"\n"):
            self.end()
        remove(folder)
        problem = f"Stopped after {SECONDS} seconds" if late else "It ended Python"
        return line.strip() or json.dumps({"problem": problem}).encode()

    def start(self) -> subprocess.Popen:
        """Start the worker's process.

        Raises:
            RuntimeError: it does not start.
        """
        caches = {"MPLCONFIGDIR": os.path.join(self.home, "matplotlib"), "MPLBACKEND": "Agg"}
        paths = [str(Path(minisd.__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environment = {name: os.environ[name] for name in KEPT if name in os.environ} | caches | {
            "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in paths if path),
            "PYTHONUSERBASE": site.getuserbase(), "CUDA_VISIBLE_DEVICES": "",
            **dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR", "TMP", "TEMP"), self.home), **dict.fromkeys(THREADS, "1")}
        command = [sys.executable, "-P", "-m", "minisd.exercises.worker", "warm" if WARM else "once"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, cwd=self.home, env=environment,
                                        start_new_session=True)
        if self.wait_for_line(STARTING)[0] != b"ready\n":
            self.end()
            raise RuntimeError(f"no answer can be tried; {' '.join(command)} should print ready")
        return self.process

    def wait_for_line(self, seconds: float) -> tuple[bytes, bool]:
        """The next line of the process, empty if it ended, and whether it was waited for in vain."""
        assert self.process is not None
        assert self.process.stdout is not None
        read, lines = self.process.stdout.readline, queue.SimpleQueue[bytes]()
        self.reader = threading.Thread(target=lambda: lines.put(read(LONGEST)), daemon=True)  # for Windows: no `select`
        self.reader.start()
        try:
            return lines.get(timeout=seconds), False
        except queue.Empty:
            return b"", True

    def end(self) -> None:
        """End the process and all of its group."""
        if self.process is None:
            return
        if sys.platform == "win32":
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(self.process.pid)], capture_output=True)
        else:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        # Closing would wait if a process that left the group holds the other end of the pipe.
        threading.Thread(target=close_after, args=(self.reader, self.process), daemon=True).start()
        self.process = None


def close_after(reader: threading.Thread, process: subprocess.Popen) -> None:
    reader.join()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # something that was not sent in time
            pipe.close()  # type: ignore[union-attr]


def remove(folder: str) -> None:
    """Remove a folder with whatever an answer left in it. That may be thousands of folders in each other, too deep for
    recursion and for any path: what is in the folders there moves up by one, until there are none."""
    if sys.platform == "win32":  # whose paths are short; and a junction there could lead out
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)
        while entries := unlocked(folder):
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    for inner in unlocked(entry.path):
                        os.rename(inner.path, os.path.join(folder, secrets.token_hex(8)))
                    os.rmdir(entry.path)
                else:
                    os.unlink(entry.path)
        os.rmdir(folder)


def unlocked(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder; folders among it may be changed afterwards."""
    found = [*os.scandir(folder)]
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.path, 0o700)
    return found
