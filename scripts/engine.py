#!/usr/bin/env python3
"""Three PostgreSQL servers on loopback in a folder: a primary, and two standbys of which any one must have a commit.

    engine.py up FOLDER [--password WORD] [--address A]   makes them where FOLDER is not there yet, starts them, prints how to get at them
    engine.py run FOLDER                    as `up`; stops them and removes the folder when it is asked to end (SIGTERM), or
                                            when whoever started it has ended
    engine.py down FOLDER                   stops them; the folder stays
    engine.py status FOLDER                 which of them runs, and who is the primary
    engine.py kill FOLDER NAME              kill -9 of one with its processes: primary, standby1, standby2, as they were at first;
                                            the-primary and the-standbys are those who are it now
    engine.py freeze FOLDER NAME            one of them with its processes does not answer, until `thaw`
    engine.py promote FOLDER                as a manager would: all receivers are stopped, then the standby that has most is the
                                            primary, and the other one follows it
    engine.py start FOLDER NAME             starts one again; an old primary is made anew as a standby

For trying and testing: nothing here watches over the servers. A product uses a manager of PostgreSQL (Patroni, a cloud's).
A PostgreSQL server does not run as root: where we are root, it runs as the user postgres, whom the folder then belongs to.
Ports are chosen by the kernel and kept in FOLDER/engine.json. `up` prints two lines: the address for --engine, and the
file for PGPASSFILE. With --address they listen on that one too, and it is the one in the first line.
"""
import argparse, glob, json, os, pathlib, pwd, secrets, shutil, signal, subprocess, sys, time

from ports import free_ports

NAMES = ["primary", "standby1", "standby2"]
SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = on
synchronous_commit = on
shared_buffers = 64MB
wal_level = replica
max_wal_senders = 8
wal_keep_size = 256MB
hot_standby = on
wal_receiver_status_interval = 1s
wal_retrieve_retry_interval = 200ms
"""


def stop(text):
    sys.exit(f"engine: {text}")


def programs():
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
    if found:
        return pathlib.Path(found[-1]).parent
    initdb = shutil.which("initdb")
    return pathlib.Path(initdb).parent if initdb else stop("PostgreSQL's server is not installed (Debian: postgresql)")


class Engine:
    file, names = "engine.json", NAMES

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).resolve()
        self.bin = programs()
        self.user = pwd.getpwnam("postgres") if os.getuid() == 0 else None
        file = self.folder / self.file
        self.state = json.loads(file.read_text()) if file.exists() else None

    def save(self):
        (self.folder / self.file).write_text(json.dumps(self.state))

    def identity(self):
        """Of a process that is not root's."""
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []} if self.user else {}

    def run(self, program, *arguments, check=True):
        """A program of PostgreSQL's, as a user that is not root."""
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PGPASSFILE": str(self.folder / "pgpass")}
        done = subprocess.run([str(self.bin / program), *map(str, arguments)], stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=self.folder,
                              **self.identity())
        if check and done.returncode != 0:
            stop(f"{program} failed:\n{done.stdout}")
        return done

    def data(self, name):
        return self.folder / name

    def port(self, name):
        return self.state["ports"][name]

    def sql(self, name, text, check=True, database="holdfast"):
        return self.run("psql", "-XAtq", "-h", "127.0.0.1", "-p", self.port(name), "-U", "holdfast", "-d", database,
                        "-v", "ON_ERROR_STOP=1", "-c", text, check=check).stdout.strip()

    # What `up` does

    def make(self, password, address, connections):
        self.folder.mkdir(parents=True)
        password = password or secrets.token_hex(12)
        self.state = {"ports": dict(zip(NAMES, free_ports(3))), "primary": "primary", "address": address}
        self.save()
        (self.folder / "word").write_text(password)
        (self.folder / "pgpass").write_text(
            "".join(f"{each}:*:*:*:{password}\n" for each in sorted({"127.0.0.1", address})))
        for file in ("word", "pgpass"):
            (self.folder / file).chmod(0o600)
        if self.user:
            for path in [self.folder, *self.folder.iterdir()]:
                os.chown(path, self.user.pw_uid, self.user.pw_gid)
        self.run("initdb", "-D", self.data("primary"), "-U", "holdfast", "-A", "scram-sha-256", "--pwfile",
                 self.folder / "word", "-E", "UTF8", "--no-sync")
        with open(self.data("primary") / "postgresql.conf", "a") as file:
            file.write(f"{SETTINGS}max_connections = {connections}\n")
            if address != "127.0.0.1":
                file.write(f"listen_addresses = '127.0.0.1, {address}'\n")
        with open(self.data("primary") / "pg_hba.conf", "a") as file:
            file.write("host replication all 127.0.0.1/32 scram-sha-256\n")
            if address != "127.0.0.1":
                file.write("host holdfast all all scram-sha-256\n")
        self.start("primary")
        self.run("createdb", "-h", "127.0.0.1", "-p", self.port("primary"), "-U", "holdfast", "holdfast")
        for name in NAMES[1:]:
            self.copy(name, "primary")
            self.start(name)
        self.require_standbys("primary")

    def copy(self, name, source):
        """Makes `name` a standby of `source`."""
        shutil.rmtree(self.data(name), ignore_errors=True)
        self.run("pg_basebackup", "-D", self.data(name), "-c", "fast", "--no-sync", "-X", "stream", "-d",
                 self.source(name, source))
        (self.data(name) / "standby.signal").touch()
        if self.user:
            os.chown(self.data(name) / "standby.signal", self.user.pw_uid, self.user.pw_gid)
        self.follow(name, source)

    def source(self, name, source):
        return (f"host=127.0.0.1 port={self.port(source)} user=holdfast application_name={name} "
                f"passfile={self.folder / 'pgpass'}")

    def follow(self, name, source):
        with open(self.data(name) / "postgresql.auto.conf", "w") as file:
            file.write(f"primary_conninfo = '{self.source(name, source)}'\nsynchronous_standby_names = ''\n")

    def require_standbys(self, primary):
        others = ", ".join(name for name in NAMES if name != primary)
        self.sql(primary, f"alter system set synchronous_standby_names = 'ANY 1 ({others})'")
        self.sql(primary, "select pg_reload_conf()")

    def start(self, name):
        self.run("pg_ctl", "start", "-w", "-D", self.data(name), "-l", self.folder / f"{name}.log", "-o",
                 f"-p {self.port(name)}")

    def pid(self, name):
        """Of the server, if it runs."""
        try:
            pid = int((self.data(name) / "postmaster.pid").read_text().split("\n")[0])
            os.kill(pid, 0)
            return pid
        except (OSError, ValueError):
            return None

    # Commands

    def until_the_end(self, *arguments):
        parent = os.getppid()
        ends = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ends.append(True))
        self.up(*arguments)
        while not ends and os.getppid() == parent:
            time.sleep(0.1)
        self.down()
        shutil.rmtree(self.folder)

    def up(self, password, address, connections):
        if not self.state:
            self.make(password, address, connections)
        for name in NAMES:
            if not self.pid(name):
                (self.data(name) / "postmaster.pid").unlink(missing_ok=True)
                self.start(name)
        self.print_address()

    def print_address(self):
        hosts = ",".join(f"{self.state.get('address', '127.0.0.1')}:{self.port(name)}" for name in self.names)
        print(f"postgresql://holdfast@{hosts}/holdfast", self.folder / "pgpass", sep="\n", flush=True)

    def down(self):
        # Standbys last: a primary that stops waits for what they must have.
        for name in sorted(NAMES, key=lambda name: name != self.state["primary"]):
            if self.pid(name):
                self.signal(name, signal.SIGCONT)
                self.run("pg_ctl", "stop", "-m", "immediate", "-D", self.data(name), check=False)

    def status(self):
        for name in NAMES:
            says = "down"
            if self.pid(name):
                answer = self.sql(name, "select case when pg_is_in_recovery() then 'standby' else 'primary' end", check=False)
                says = answer.split("\n")[-1]
            print(f"{name} 127.0.0.1:{self.port(name)} {says}")

    def signal(self, name, number):
        """To all its processes."""
        for each in self.processes(name) or stop(f"{name} does not run"):
            try:
                os.kill(each, number)
            except ProcessLookupError:
                pass

    def processes(self, name):
        pid = self.pid(name)
        if not pid:
            return []
        return [pid, *map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def kill(self, name):
        self.signal(name, signal.SIGKILL)
        while self.pid(name):
            time.sleep(0.01)
        (self.data(name) / "postmaster.pid").unlink(missing_ok=True)

    def promote(self):
        # First nobody receives from the old one any more, or two could have a quorum each.
        standbys = [name for name in self.named("the-standbys") if self.pid(name)]
        for name in standbys:
            with open(self.data(name) / "postgresql.auto.conf", "w") as file:
                file.write("primary_conninfo = ''\nsynchronous_standby_names = ''\n")
            self.run("pg_ctl", "reload", "-D", self.data(name))
        deadline = time.monotonic() + 20
        for name in standbys:
            while self.sql(name, "select count(*) from pg_stat_wal_receiver") != "0":
                if time.monotonic() > deadline:
                    stop(f"{name} goes on receiving")
                time.sleep(0.05)
        received = {name: int(self.sql(name, "select pg_last_wal_receive_lsn() - '0/0'::pg_lsn") or 0) for name in standbys}
        # Any one has a commit that was acknowledged: it takes both to know which.
        if len(standbys) < 2:
            stop("it takes two standbys to know what was acknowledged")
        newest = max(standbys, key=received.get)
        self.run("pg_ctl", "promote", "-w", "-D", self.data(newest))
        for name in standbys:
            if name != newest:
                self.follow(name, newest)
                self.run("pg_ctl", "reload", "-D", self.data(name))
        self.state["primary"] = newest
        self.require_standbys(newest)
        self.save()

    def named(self, name):
        """Who is meant, of NAMES."""
        primary = self.state["primary"]
        return {"the-primary": [primary], "the-standbys": [each for each in NAMES if each != primary]}.get(name, [name])

    def start_again(self, name):
        if self.pid(name):
            return
        (self.data(name) / "postmaster.pid").unlink(missing_ok=True)
        if name != self.state["primary"] and not (self.data(name) / "standby.signal").exists():
            self.copy(name, self.state["primary"])
        self.start(name)


def command(engine, options, arguments):
    """Does what `options` ask for; `arguments` are those of up."""
    if options.command not in ("up", "run") and not engine.state:
        stop(f"{options.folder} holds no engine")
    if options.command in ("kill", "freeze", "thaw", "start") and not options.name:
        stop(f"which one: {', '.join(engine.names)}")
    named = engine.named(options.name) if options.name else []
    match options.command:
        case "up": engine.up(*arguments)
        case "run": engine.until_the_end(*arguments)
        case "down": engine.down()
        case "status": engine.status()
        case "promote": engine.promote()
        case "wait": engine.until_safe()
        case _:
            commands = {"kill": engine.kill, "start": engine.start_again,
                        "freeze": lambda name: engine.signal(name, signal.SIGSTOP),
                        "thaw": lambda name: engine.signal(name, signal.SIGCONT)}
            for name in named:
                commands[options.command](name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["up", "run", "down", "status", "kill", "freeze", "thaw", "promote", "start"])
    parser.add_argument("folder")
    parser.add_argument("name", nargs="?", choices=[*NAMES, "the-primary", "the-standbys"])
    parser.add_argument("--password")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--connections", type=int, default=50, help="max_connections of each")
    options = parser.parse_args()
    command(Engine(options.folder), options, (options.password, options.address, options.connections))


if __name__ == "__main__":
    main()
