#!/usr/bin/env python3
"""Three PostgreSQL servers on loopback under Patroni, which promotes by itself, and an etcd for it, in a folder.

    patroni.py up FOLDER [--version debian|pypi]  makes them where FOLDER is not there yet, starts them, prints how to get at
                                            them: two lines, as scripts/engine.py does. debian is the package; pypi is what
                                            `make bootstrap-ha` has put into .venv-patroni, and knows quorum commit
    patroni.py run FOLDER [--version ...]   as `up`; stops them and removes the folder when it is asked to end (SIGTERM), or
                                            when whoever started it has ended
    patroni.py down FOLDER                  stops them; the folder stays
    patroni.py status FOLDER                which of them runs, and who is the primary
    patroni.py kill FOLDER NAME             kill -9 of one with its Patroni, as a machine's end: node1, node2, node3;
                                            the-primary and the-standbys are those who are it now
    patroni.py freeze FOLDER NAME           one of them and its Patroni do not answer, until `thaw`
    patroni.py start FOLDER NAME            starts one again: its Patroni makes it a standby, anew where it has to
    patroni.py wait FOLDER                  until all run and Patroni has named who may take the primary's place: a primary
                                            that is lost before is not replaced, since nobody is known to have all

What keeps an acknowledged commit is `synchronous_mode_strict`: without it a primary that has lost its standbys goes on
alone. `synchronous_mode: quorum` (Patroni 4) waits for any one of the two; `on` (Patroni 3) for one that Patroni has
named, and only that one may be promoted. The time to live is the least that each version takes: 5 s, and 20 s.
Like PostgreSQL's servers, Patroni and etcd run as the user postgres where we are root.
"""
import argparse, json, os, pathlib, secrets, shutil, signal, subprocess, sys, time, urllib.error, urllib.request

import engine
from engine import stop
from ports import free_ports

NAMES = ["node1", "node2", "node3"]
REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
PROGRAMS = {"debian": pathlib.Path("/usr/bin/patroni"), "pypi": REPOSITORY / ".venv-patroni/bin/patroni"}
# Patroni wants ttl >= loop_wait + 2 * retry_timeout; 4.1 raises a ttl below 20.
TIMES = {"debian": {"ttl": 5, "loop_wait": 1, "retry_timeout": 2},
         "pypi": {"ttl": 20, "loop_wait": 2, "retry_timeout": 3}}
START_SECONDS = 90


def settings():
    """What every server gets, from engine.py's; those of the address are Patroni's own."""
    lines = [line.split(" = ") for line in engine.SETTINGS.strip().splitlines()]
    return {name: value.strip("'") for name, value in lines if name != "listen_addresses"}


class Cluster(engine.Engine):
    """An Engine whose servers Patroni starts, stops and promotes."""

    file, names = "patroni.json", NAMES

    # What `up` does

    def make(self, password, version):
        program = PROGRAMS[version]
        if not program.exists():
            stop(f"{program} is missing: make bootstrap-ha")
        if not shutil.which("etcd"):
            stop("etcd is missing: make bootstrap-ha")
        self.folder.mkdir(parents=True)
        password = password or secrets.token_hex(12)
        ports = free_ports(8)
        self.state = {"version": version, "ports": dict(zip(NAMES, ports)), "rest": dict(zip(NAMES, ports[3:])),
                      "etcd": ports[6], "etcd_peer": ports[7]}
        self.save()
        (self.folder / "pgpass").write_text(f"127.0.0.1:*:*:*:{password}\n")
        for name in NAMES:
            # JSON is YAML.
            (self.folder / f"{name}.yml").write_text(json.dumps(self.configuration(name, password), indent=1))
        for path in self.folder.iterdir():
            path.chmod(0o600)
        if self.user:
            for path in [self.folder, *self.folder.iterdir()]:
                os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def configuration(self, name, password):
        version = self.state["version"]
        address, rest = (f"127.0.0.1:{self.state[kind][name]}" for kind in ("ports", "rest"))
        shared = {**TIMES[version], "synchronous_mode": "quorum" if version == "pypi" else True,
                  "synchronous_mode_strict": True, "maximum_lag_on_failover": 1 << 30,
                  "postgresql": {"use_pg_rewind": False, "use_slots": True, "parameters": settings(),
                                 # An old primary may have what nobody else has: it is made anew.
                                 "remove_data_directory_on_diverged_timelines": True}}
        users = {"superuser": {"username": "holdfast", "password": password},
                 "replication": {"username": "replicator", "password": password}}
        return {
            "scope": "holdfast", "name": name, "restapi": {"listen": rest, "connect_address": rest},
            "etcd3": {"host": f"127.0.0.1:{self.state['etcd']}"},
            "bootstrap": {"dcs": shared, "initdb": [{"encoding": "UTF8"}, {"auth": "scram-sha-256"}, "no-sync"]},
            "postgresql": {
                "listen": address, "connect_address": address, "data_dir": str(self.data(name)), "bin_dir": str(self.bin),
                "pgpass": str(self.folder / f"{name}.pgpass"), "authentication": users,
                "pg_hba": [f"host {who} all 127.0.0.1/32 scram-sha-256" for who in ("all", "replication")],
                "parameters": {"unix_socket_directories": ""}}}

    def up(self, password, version):
        if not self.state:
            self.make(password, version)
        self.start_etcd()
        # The first one alone, or each would wait for another to begin.
        for name in NAMES:
            self.start_again(name)
            self.wait(f"{name} does not come up", lambda: self.role(name) in ("primary", "standby"))
        self.until_safe()
        primary = self.primary()
        if self.sql(primary, "select count(*) from pg_database where datname = 'holdfast'", database="postgres") == "0":
            self.run("createdb", "-h", "127.0.0.1", "-p", self.port(primary), "-U", "holdfast", "holdfast")
        self.print_address()

    def start_etcd(self):
        clients, peers = (f"http://127.0.0.1:{self.state[kind]}" for kind in ("etcd", "etcd_peer"))
        if not self.running("etcd"):
            self.spawn("etcd", shutil.which("etcd"), "--data-dir", self.folder / "etcd", "--unsafe-no-fsync",
                       "--listen-client-urls", clients, "--advertise-client-urls", clients, "--listen-peer-urls", peers,
                       "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}")
        self.wait("etcd does not come up", lambda: self.answer(f"{clients}/health"))

    def start_again(self, name):
        if not self.running(name):
            (self.data(name) / "postmaster.pid").unlink(missing_ok=True)
            self.spawn(name, PROGRAMS[self.state["version"]], self.folder / f"{name}.yml")

    def spawn(self, name, *command):
        """Starts a program that stays, as a user that is not root."""
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                start_new_session=True, env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}, **self.identity())
        (self.folder / f"{name}.pid").write_text(f"{process.pid} {self.began(process.pid)}")

    def began(self, pid):
        """When that process began, in the kernel's ticks; None where it has ended. Ids are used again."""
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
        except OSError:
            return None
        return None if fields[0] == "Z" else fields[19]

    def running(self, name):
        """The process id of a Patroni, or of etcd, if it runs."""
        try:
            pid, began = (self.folder / f"{name}.pid").read_text().split()
        except OSError:
            return None
        return int(pid) if self.began(pid) == began else None

    def wait(self, complaint, condition):
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                stop(f"{complaint}: see the logs in {self.folder}")
            time.sleep(0.1)

    # What Patroni says

    def answer(self, url):
        """The body of a page, whatever its status; None without one."""
        try:
            with urllib.request.urlopen(url, timeout=2) as page:
                return page.read()
        except urllib.error.HTTPError as error:
            return error.read()
        except OSError:
            return None

    def says(self, name):
        return json.loads(self.answer(f"http://127.0.0.1:{self.state['rest'][name]}/patroni") or "{}")

    def role(self, name):
        says = self.says(name)
        if says.get("state") != "running":
            return "down"
        return "primary" if says["role"] in ("master", "primary") else "standby"

    def primary(self):
        return next((name for name in NAMES if self.role(name) == "primary"), None)

    def is_safe(self):
        """All run, and one may take the primary's place by what stands in etcd."""
        roles = {self.role(name): name for name in NAMES}
        if set(roles) != {"primary", "standby"}:
            return False
        said = self.answer(f"http://127.0.0.1:{self.state['rest'][roles['primary']]}/cluster") or b"{}"
        return any(member["role"] in ("sync_standby", "quorum_standby") for member in json.loads(said).get("members", []))

    def until_safe(self):
        self.wait("no standby may take the primary's place", self.is_safe)

    # Commands

    def down(self):
        for name in NAMES:
            if pid := self.running(name):
                self.signal(name, signal.SIGCONT)
                # Not by SIGTERM: a Patroni that ends hands over first.
                os.kill(pid, signal.SIGKILL)
            if self.pid(name):
                self.run("pg_ctl", "stop", "-m", "immediate", "-D", self.data(name), check=False)
        if pid := self.running("etcd"):
            os.kill(pid, signal.SIGTERM)
            self.wait("etcd does not end", lambda: not self.running("etcd"))

    def status(self):
        for name in NAMES:
            print(f"{name} 127.0.0.1:{self.port(name)} {self.role(name)}")

    def processes(self, name):
        # Patroni first: it would start its server again.
        return [pid for pid in (self.running(name),) if pid] + super().processes(name)

    def named(self, name):
        if name in NAMES:
            return [name]
        primary = self.primary() or stop("there is no primary now")
        return [primary] if name == "the-primary" else [each for each in NAMES if each != primary]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["up", "run", "down", "status", "kill", "freeze", "thaw", "start", "wait"])
    parser.add_argument("folder")
    parser.add_argument("name", nargs="?", choices=[*NAMES, "the-primary", "the-standbys"])
    parser.add_argument("--password")
    parser.add_argument("--version", choices=PROGRAMS, default="debian")
    options = parser.parse_args()
    engine.command(Cluster(options.folder), options, (options.password, options.version))


if __name__ == "__main__":
    main()
