"""A service between a server and a broker under test: what `holdfast relay` and `holdfast intake` have in common."""

import os
import re
import subprocess
import tempfile
import urllib.error
import urllib.request

from lifetime import tied
from server import eventually

STOP_SECONDS = 30


class BrokerService:
    """Started when the constructor returns.

    A subclass names the command, as `name`, and its first line, as `ready`: its third group is the address of the admin port,
    its fourth the process id.
    """

    def __init__(self, command, environment=()):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(tied(*command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=self.log, text=True, env={**os.environ, **dict(environment)})
        self.first_line = self.process.stdout.readline()
        found = self.ready.fullmatch(self.first_line)
        if not found:
            self.process.wait(STOP_SECONDS)
            raise RuntimeError(f"the {self.name} does not come up ({self.process.returncode}): {self.text()}")
        self.admin, self.pid = found[3], self.process.pid
        assert int(found[4]) == self.pid

    def text(self):
        """What it has told the operator."""
        number = self.log.fileno()
        return os.pread(number, os.fstat(number).st_size, 0).decode()

    def says(self, words, seconds=30):
        eventually(lambda: words in self.text(), seconds)

    def page(self):
        return urllib.request.urlopen(f"{self.admin}/metrics", timeout=10).read().decode()

    def metric(self, name, **labels):
        shown = "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else ""
        found = re.search(rf"^holdfast_{self.name}_{name}{re.escape(shown)} (\S+)$", self.page(), re.M)
        return float(found[1]) if found else None

    def readiness(self):
        try:
            return urllib.request.urlopen(f"{self.admin}/readyz", timeout=10).status
        except urllib.error.HTTPError as error:
            return error.code

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self, seconds=STOP_SECONDS):
        """Its exit status, once it has ended by itself."""
        return self.process.wait(seconds)

    def stop(self):
        """By SIGTERM. Its exit status."""
        self.process.terminate()
        return self.process.wait(STOP_SECONDS)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()
        self.process.stdout.close()
        self.log.close()
