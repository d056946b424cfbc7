"""An engine with many databases, one for each log: for tests that would get into each other's way."""

import json
import os
import pathlib
import subprocess

from engines import Engine


class EngineDatabases(Engine):
    def __init__(self):
        super().__init__()
        self.address = self.url.removesuffix("holdfast")
        self.password = pathlib.Path(self.environment["PGPASSFILE"]).read_text().strip().rsplit(":", 1)[1]
        self.count, self.free = 0, []

    def port(self, name):
        return json.loads((self.folder / "engine.json").read_text())["ports"][name]

    def primary(self):
        return json.loads((self.folder / "engine.json").read_text())["primary"]

    def sql(self, *texts, database="holdfast"):
        done = subprocess.run(
            ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", f"{self.address}{database}?target_session_attrs=read-write",
             *(part for text in texts for part in ("-c", text))],
            env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60)
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
