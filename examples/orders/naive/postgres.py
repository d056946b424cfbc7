"""A PostgreSQL of its own for as long as it is needed: on a socket in a temporary folder, gone afterwards, however this ends."""

import glob
import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile

import psycopg

# Reads until this program has ended or has closed the pipe; then it stops the server, and removes the folder.
KEEPER = 'cat; "$1/pg_ctl" stop -m immediate -D "$0/data"; rm -rf "$0"'


class Postgres:
    Error = psycopg.Error

    def __init__(self):
        programs = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
        initdb = programs[-1] if programs else shutil.which("initdb")
        if not initdb:
            raise RuntimeError("PostgreSQL's server is not installed (Debian: postgresql)")
        self.programs = pathlib.Path(initdb).parent
        # It does not run as root: where we are root, it runs as the user postgres.
        self.user = pwd.getpwnam("postgres") if os.getuid() == 0 else None
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="naive-"))
        if self.user:
            os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)
        self.keeper = subprocess.Popen(["sh", "-c", KEEPER, self.folder, self.programs], cwd="/", start_new_session=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                       **self.identity())
        try:
            self.run("initdb", "-D", self.folder / "data", "-U", "shop", "-A", "trust", "--no-sync")
            # What it says is compared, not what outlives a power cut.
            self.run("pg_ctl", "start", "-w", "-D", self.folder / "data", "-l", self.folder / "log", "-o",
                     f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' -c fsync=off")
            self.connection = psycopg.connect(f"host={self.folder} user=shop dbname=postgres", autocommit=True)
        except BaseException:
            self.stop()
            raise

    def identity(self):
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []} if self.user else {}

    def run(self, program, *arguments):
        done = subprocess.run([self.programs / program, *arguments], cwd=self.folder, stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}, **self.identity())
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed:\n{done.stdout}")

    def reset(self, schema):
        """Empty, but for what `schema` makes."""
        self.connection.execute(f"drop schema public cascade; create schema public; {schema}")

    def execute(self, statement, values=()):
        return self.connection.execute(statement, values)

    def stop(self):
        if hasattr(self, "connection"):
            self.connection.close()
        self.keeper.stdin.close()
        self.keeper.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
