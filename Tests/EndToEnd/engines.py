"""An engine under test: three PostgreSQL servers by scripts/engine.py, or under Patroni by scripts/patroni.py."""

import glob
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
COMMAND_SECONDS = 120


def is_installed():
    return bool(glob.glob("/usr/lib/postgresql/*/bin/initdb") or shutil.which("initdb"))


class Engine:
    """Up when the constructor returns, gone with its folder after stop(), or when this process ends.

    `manager` is None, or the version of Patroni that promotes by itself: debian, pypi.
    """

    def __init__(self, *flags, manager=None):
        self.manager = manager
        self.script = SCRIPTS / ("patroni.py" if manager else "engine.py")
        # The user postgres has to get at it, so not in a folder that is ours alone.
        self.parent = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-engine-"))
        self.parent.chmod(0o711)
        self.folder = self.parent / "engine"
        versions = ["--version", manager] if manager else []
        self.process = subprocess.Popen([sys.executable, self.script, "run", self.folder, *versions, *flags],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        # Of servers and others that speak to it.
        self.environment = {"PGPASSFILE": self.process.stdout.readline().strip()}
        if not self.url:
            message = self.process.stderr.read()
            self.stop()
            raise RuntimeError(f"the engine does not come up: {message}")

    def do(self, command, *arguments):
        """A command of the script's. Returns what it prints."""
        done = subprocess.run([sys.executable, self.script, command, self.folder, *arguments], capture_output=True,
                              text=True, timeout=COMMAND_SECONDS)
        if done.returncode != 0:
            raise RuntimeError(f"{self.script.name} {command} {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def promote(self):
        """Another one, after the primary was killed. A manager does so by itself."""
        if not self.manager:
            self.do("promote")

    def roles(self):
        """"primary", "standby" or "down" of each, by its name."""
        return {line.split()[0]: line.split()[-1] for line in self.do("status").splitlines()}

    def start_all(self):
        """Those that were killed come back, as standbys."""
        for name in self.roles():
            self.do("start", name)
        if self.manager:
            self.do("wait")

    def make_tables(self, server):
        """holdfast engine init, with that program."""
        done = subprocess.run([server, "engine", "init", "--engine", self.url], capture_output=True, text=True,
                              env={**os.environ, **self.environment}, timeout=COMMAND_SECONDS)
        if done.returncode != 0:
            raise RuntimeError(f"holdfast engine init: {done.stdout}{done.stderr}")

    def stop(self):
        self.process.terminate()
        self.process.wait(COMMAND_SECONDS)
        shutil.rmtree(self.parent, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
