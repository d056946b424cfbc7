"""A PostgreSQL primary with two synchronous standbys, for servers with --durability quorum."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts/engine.py"
START_SECONDS = 60


def is_installed():
    return shutil.which("psql") and (shutil.which("initdb") or any(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb")))


class Engine:
    """scripts/engine.py run, ended with its folder by `stop`."""

    def __init__(self):
        # The database's user goes through the folder above.
        self.above = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-quorum-"))
        self.above.chmod(0o755)
        self.folder = self.above / "engine"
        self.process = subprocess.Popen([sys.executable, SCRIPT, "run", self.folder], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, text=True)
        watchdog = threading.Timer(START_SECONDS, self.process.kill)
        watchdog.start()
        self.address = self.process.stdout.readline().strip().removesuffix("holdfast")
        self.passwords = self.process.stdout.readline().strip()
        watchdog.cancel()
        assert self.passwords, "the engine did not come up"
        self.environment = {"PGPASSFILE": self.passwords}
        self.password = pathlib.Path(self.passwords).read_text().strip().rsplit(":", 1)[1]
        self.count, self.free = 0, []

    def stop(self):
        self.process.terminate()
        self.process.wait(START_SECONDS)
        shutil.rmtree(self.above)

    def run(self, command, *names):
        """A command of scripts/engine.py."""
        subprocess.run([sys.executable, SCRIPT, command, self.folder, *names], check=True)

    def port(self, name):
        return json.loads((self.folder / "engine.json").read_text())["ports"][name]

    def primary(self):
        return json.loads((self.folder / "engine.json").read_text())["primary"]

    def sql(self, *texts, database="holdfast"):
        done = subprocess.run(
            ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", f"{self.address}{database}?target_session_attrs=read-write",
             *(part for text in texts for part in ("-c", text))], env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def set(self, name, value):
        """A setting of the primary's, in force on return; None: as it was made."""
        self.sql(f"alter system reset {name}" if value is None else f"alter system set {name} = '{value}'")
        self.sql("select pg_reload_conf()")

    def database(self):
        """The name of one that is empty; `give_back` when it is not needed any more."""
        if self.free:
            return self.free.pop()
        self.count += 1
        name = f"test_{self.count}"
        self.sql(f"create database {name}")
        return name

    def give_back(self, name):
        self.sql("set client_min_messages = error; drop schema if exists holdfast cascade", database=name)
        self.free.append(name)
