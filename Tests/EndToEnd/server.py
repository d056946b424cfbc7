"""The server process under test."""

import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading
import time

from lifetime import tied

READY = re.compile(r"holdfast (?:ready|standby): grpc (unix:.+|\S+?)(?::(\d+))? admin https?://(\S+):(\d+) pid (\d+)")
START_SECONDS = 20
STOP_SECONDS = 20
# A quarter of what users get: a server's first segments are on the disk sooner.
SEGMENT_BYTES = 16 * 1024 * 1024


def serve_command(binary, data, *flags):
    """The command line of a server on free loopback ports."""
    return [binary, "serve", "--port", "0", "--admin-port", "0", "--data-dir", str(data),
            "--journal-segment-bytes", str(SEGMENT_BYTES), *flags]


def holdfast(binary, *arguments, environment=()):
    """Runs another command, or a server that is expected not to start."""
    return subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True, timeout=60,
                          env={**os.environ, **dict(environment)})


class Server:
    """`holdfast serve` on free loopback ports, with a journal; up when the constructor returns.

    Its data directory is `data`, or else one of its own that goes with it. `prefix` is a command that ends
    by becoming the one behind it, such as prlimit(1). With `waits=False` it may have a long way to go, as a standby
    has: `wait_until_ready` says when it has come there.
    """

    def __init__(self, binary, *flags, data=None, environment=(), prefix=(), waits=True):
        self.own_data = None if data else tempfile.TemporaryDirectory(prefix="holdfast-data-")
        self.data = pathlib.Path(data or self.own_data.name)
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            tied(*prefix, *serve_command(binary, self.data, *flags)), env={**os.environ, **dict(environment)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.pid = self.process.pid
        # Set while the server answers calls: of a standby, once it has taken over.
        self.owns = threading.Event()
        self.is_up = False
        if waits:
            self.wait_until_up()

    def wait_until_up(self, seconds=START_SECONDS):
        """Until it answers calls, or says that it stands by."""
        watchdog = threading.Timer(seconds, self.process.kill)
        watchdog.start()
        ready = None
        for line in self.process.stdout:
            if ready := READY.match(line):
                break
        watchdog.cancel()
        if not ready:
            self.process.wait()
            raise RuntimeError(f"the server ended before it was ready:\n{self.log_text()}")
        # A unix socket has no port.
        self.host, self.port, self.admin_port = ready[1], ready[2] and int(ready[2]), int(ready[4])
        self.target = f"{self.host}:{self.port}" if ready[2] else self.host
        self.admin = f"{ready[3]}:{ready[4]}"
        assert int(ready[5]) == self.pid
        self.is_up = True
        if ready[0].startswith("holdfast ready"):
            self.owns.set()
        else:
            threading.Thread(target=self.wait_for_ownership, daemon=True).start()

    def wait_for_ownership(self):
        if any(line.startswith("holdfast ready:") for line in self.process.stdout):
            self.owns.set()

    def wait_until_ready(self, seconds=START_SECONDS):
        """Until it answers calls: of a standby, until it has taken over."""
        if not self.is_up:
            self.wait_until_up(seconds)
        if not self.owns.wait(seconds):
            raise RuntimeError(f"the server has not taken over:\n{self.log_text()}")
        return self

    def log_text(self):
        # Not by seeking: the server writes where this file stands.
        number = self.log.fileno()
        return os.pread(number, os.fstat(number).st_size, 0).decode(errors="replace")

    def is_alive(self):
        return self.process.poll() is None

    def resident_bytes(self):
        """Physical memory of the process now."""
        with open(f"/proc/{self.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1]) * 1024

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def kill(self):
        """SIGKILL: it has no chance to tidy up."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """Stops it if it still runs. Returns its exit status; negative: the signal that ended it."""
        if self.is_alive():
            self.terminate()
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end within {STOP_SECONDS} s of SIGTERM:\n{self.log_text()}")
        finally:
            if self.own_data:
                self.own_data.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def eventually(condition, seconds=30):
    """Waits until condition() is true and returns what it returned; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not true within {seconds} s"
        time.sleep(0.01)
    return result
