"""The server process under test."""

import re
import signal
import subprocess
import tempfile
import threading
import time

READY = re.compile(r"holdfast ready: grpc (\S+):(\d+) admin http://(\S+):(\d+) pid (\d+)")
START_SECONDS = 20
STOP_SECONDS = 20


class Server:
    """`holdfast serve` on free loopback ports; up when the constructor returns."""

    def __init__(self, binary, *flags):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [binary, "serve", "--port", "0", "--admin-port", "0", *flags],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log, text=True)
        watchdog = threading.Timer(START_SECONDS, self.process.kill)
        watchdog.start()
        ready = None
        for line in self.process.stdout:
            if ready := READY.match(line):
                break
        watchdog.cancel()
        if not ready:
            self.process.wait()
            raise RuntimeError(f"the server ended before it was ready:\n{self.log_text()}")
        self.host, self.port, self.admin_port = ready[1], int(ready[2]), int(ready[4])
        self.target = f"{self.host}:{self.port}"
        self.pid = self.process.pid
        assert int(ready[5]) == self.pid

    def log_text(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def is_alive(self):
        return self.process.poll() is None

    def resident_bytes(self):
        """Physical memory of the process now."""
        with open(f"/proc/{self.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1]) * 1024

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def stop(self):
        """Stops it if it still runs. Returns its exit status; negative: the signal that ended it."""
        if self.is_alive():
            self.terminate()
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"no end within {STOP_SECONDS} s of SIGTERM:\n{self.log_text()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def eventually(condition, seconds=10):
    """Waits until condition() is true and returns what it returned; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not true within {seconds} s"
        time.sleep(0.01)
    return result
