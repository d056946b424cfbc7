#!/usr/bin/env python3
"""A RabbitMQ on loopback in a folder.

    broker.py up FOLDER [--tls-cert FILE --tls-key FILE [--tls-ca FILE]]
                                 makes it where FOLDER is not there yet, starts it, prints how to get at it
    broker.py run FOLDER         as `up`; stops it and removes the folder when it is asked to end (SIGTERM), or when whoever
                                 started it has ended
    broker.py down FOLDER        stops it in order; the folder stays
    broker.py status FOLDER      whether it runs
    broker.py kill FOLDER        kill -9
    broker.py start FOLDER       starts it again, on the same ports and with what it has kept
    broker.py freeze FOLDER      it does not answer, until `thaw`
    broker.py alarm FOLDER disk|memory|none    takes no message, as if the disk or the memory were short; none: takes them again
    broker.py ctl FOLDER COMMAND...            a command of rabbitmqctl(8): users, vhosts, policies, queues

For trying and testing. It listens on 127.0.0.1 alone, with an epmd of its own; ports are chosen by the kernel and kept in
FOLDER/broker.json. Where we are root it runs as the user rabbitmq, whom the folder then belongs to. `up` prints the address
for --broker, the file for --broker-password-file, the server's process id, and with --tls-cert the address for TLS. With
--tls-ca a client needs a certificate of that authority.
"""
import argparse, json, os, pathlib, pwd, secrets, shutil, signal, socket, subprocess, sys, time

from ports import free_ports

USER = "holdfast"
PLUGINS = ["rabbitmq_consistent_hash_exchange"]
PORTS = ["amqp", "amqps", "distribution", "epmd"]
START_SECONDS, STOP_SECONDS = 60, 30
PROTOCOL = b"AMQP\0\0\x09\x01"
SETTINGS = """
listeners.tcp.1 = 127.0.0.1:{amqp}
default_user = {user}
default_pass = {password}
loopback_users = none
disk_free_limit.absolute = {disk_free}
vm_memory_high_watermark.relative = {memory}
"""
TLS_SETTINGS = """
listeners.ssl.1 = 127.0.0.1:{amqps}
ssl_options.certfile = {folder}/tls.pem
ssl_options.keyfile = {folder}/tls.key
"""
CLIENT_CERTIFICATE_SETTINGS = """
ssl_options.cacertfile = {folder}/tls-ca.pem
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
"""
# What no machine falls short of, and what none has.
DISK_FREE, MEMORY = "1MB", "0.6"
DISK_FREE_NEVER, MEMORY_NEVER = "1000000GB", "0"


def stop(text):
    sys.exit(f"broker: {text}")


def programs():
    """The folder of RabbitMQ's own scripts: those of Debian's around them know one server alone."""
    folder = pathlib.Path("/usr/lib/rabbitmq/bin")
    if (folder / "rabbitmq-server").exists():
        return folder
    found = shutil.which("rabbitmq-server")
    return pathlib.Path(found).resolve().parent if found else stop("RabbitMQ is not installed (Debian: rabbitmq-server)")


class Broker:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder).resolve()
        self.bin = programs()
        self.user = pwd.getpwnam("rabbitmq") if os.getuid() == 0 else None
        self.log_start = 0
        self.load()

    def load(self):
        file = self.folder / "broker.json"
        self.state = json.loads(file.read_text()) if file.exists() else None

    def save(self):
        (self.folder / "broker.json").write_text(json.dumps(self.state))

    def port(self, name):
        return self.state["ports"][name]

    def identity(self):
        """Of a process that is not root's."""
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []} if self.user else {}

    def environment(self):
        folder = self.folder
        return {
            "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(folder / "home"),
            "ERL_EPMD_ADDRESS": "127.0.0.1", "ERL_EPMD_PORT": str(self.port("epmd")),
            "RABBITMQ_NODENAME": self.state["node"], "RABBITMQ_DIST_PORT": str(self.port("distribution")),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"), "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "data"), "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"), "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            # Not the machine's.
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none.sh"), "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "none.config"),
            # The script becomes the server, so that its process is ours to stop. Schedulers sleep when there is nothing
            # to do: others share the machine.
            "RABBITMQ_ALLOW_INPUT": "1", "RABBITMQ_SERVER_START_ARGS": f"-noinput -holdfast {self.state['node']}",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
                "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def spawn(self, command, log):
        """A process that outlives this one. Returns its id."""
        with open(self.folder / "log" / log, "ab") as output:
            return subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                    env=self.environment(), cwd=self.folder, start_new_session=True,
                                    **self.identity()).pid

    def ctl(self, *arguments, check=True):
        """What rabbitmqctl prints."""
        done = subprocess.run([self.bin / "rabbitmqctl", "--quiet", *map(str, arguments)], stdin=subprocess.DEVNULL,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.environment(),
                              cwd=self.folder, **self.identity())
        if check and done.returncode != 0:
            stop(f"rabbitmqctl {arguments[0]} failed:\n{done.stdout}")
        return done.stdout

    def pid(self, name="server"):
        """Of the server or its epmd, if it runs."""
        pid, word = {"server": (self.state.get("server"), self.state["node"]),
                     "epmd": (self.state.get("epmd"), str(self.port("epmd")))}[name]
        try:
            # Another process may have got the number since.
            return pid if word.encode() in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() else None
        except OSError:
            return None

    def log_text(self):
        return (self.folder / "log" / "server.log").read_text(errors="replace")

    # What `up` does

    def make(self, options):
        for name in ("home", "data", "log"):
            (self.folder / name).mkdir(parents=True)
        password = secrets.token_hex(12)
        self.state = {"ports": dict(zip(PORTS, free_ports(len(PORTS)))), "node": f"holdfast-{secrets.token_hex(4)}@localhost",
                      "tls": bool(options.tls_cert)}
        settings = SETTINGS
        if options.tls_cert:
            settings += TLS_SETTINGS
            shutil.copy(options.tls_cert, self.folder / "tls.pem")
            shutil.copy(options.tls_key, self.folder / "tls.key")
        if options.tls_ca:
            settings += CLIENT_CERTIFICATE_SETTINGS
            shutil.copy(options.tls_ca, self.folder / "tls-ca.pem")
        (self.folder / "rabbitmq.conf").write_text(settings.format(
            **self.state["ports"], user=USER, password=password, folder=self.folder, disk_free=DISK_FREE, memory=MEMORY))
        (self.folder / "plugins").write_text(f"[{','.join(PLUGINS)}].\n")
        (self.folder / "password").write_text(password)
        (self.folder / "home" / ".erlang.cookie").write_text(secrets.token_hex(16))
        for name in ("password", "rabbitmq.conf", "home/.erlang.cookie", *(["tls.key"] if options.tls_cert else [])):
            (self.folder / name).chmod(0o400)
        if self.user:
            for path in [self.folder, *self.folder.rglob("*")]:
                os.chown(path, self.user.pw_uid, self.user.pw_gid)
        self.save()

    def start(self):
        if not self.pid("epmd"):
            self.state["epmd"] = self.spawn(["epmd", "-address", "127.0.0.1", "-port", self.port("epmd")], "epmd.log")
        if not self.pid():
            self.begin()
        self.save()
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            has_ended = not is_there(self.state["server"])
            if has_ended and time.monotonic() < deadline and "eaddrinuse" in self.log_text()[self.log_start:]:
                # Its port was free and is not: whoever calls a port that nobody listens at, again and again, sooner or later has
                # that very port as its own, and is connected to itself, until it sees that this is no broker.
                self.begin()
                self.save()
            elif has_ended or time.monotonic() > deadline:
                log = self.log_text()
                self.down(signal.SIGKILL)
                stop(f"it does not come up:\n{log[-4000:]}")
            time.sleep(0.05)

    def begin(self):
        log = self.folder / "log" / "server.log"
        self.log_start = len(self.log_text()) if log.exists() else 0
        self.state["server"] = self.spawn([self.bin / "rabbitmq-server"], "server.log")

    def answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port("amqp")), 5) as connection:
                connection.sendall(PROTOCOL)
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    # Commands

    def up(self, options):
        if not self.state:
            self.make(options)
        self.start()
        print(f"amqp://{USER}@127.0.0.1:{self.port('amqp')}", self.folder / "password", self.pid(), sep="\n")
        print(f"amqps://{USER}@localhost:{self.port('amqps')}" if self.state["tls"] else "-", flush=True)

    def until_the_end(self, options):
        parent = os.getppid()
        ends = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ends.append(True))
        self.up(options)
        while not ends and os.getppid() == parent:
            time.sleep(0.1)
        # It may have been started again since. Nothing is kept: it need not end in order.
        if (self.folder / "broker.json").exists():
            self.load()
        self.down(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def down(self, number=signal.SIGTERM):
        if self.pid():
            os.kill(self.pid(), signal.SIGCONT)
            self.end(number)
        if epmd := self.pid("epmd"):
            os.kill(epmd, signal.SIGTERM)
            wait_for_end([epmd], STOP_SECONDS)

    def end(self, number):
        """The server and what it has started."""
        pid = self.pid()
        processes = [pid, *descendants(pid)]
        os.kill(pid, number)
        if not wait_for_end(processes, STOP_SECONDS):
            for each in processes:
                if is_there(each):
                    os.kill(each, signal.SIGKILL)
            wait_for_end(processes, STOP_SECONDS)

    def kill(self):
        if not self.pid():
            stop("it does not run")
        self.end(signal.SIGKILL)

    def signal(self, number):
        os.kill(self.pid() or stop("it does not run"), number)

    def alarm(self, kind):
        self.ctl("set_disk_free_limit", DISK_FREE_NEVER if kind == "disk" else DISK_FREE)
        self.ctl("set_vm_memory_high_watermark", MEMORY_NEVER if kind == "memory" else MEMORY)


def is_there(pid):
    """A process that nobody has waited for yet is gone as well."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid):
    try:
        children = list(map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []
    return [each for child in children for each in (child, *descendants(child))]


def wait_for_end(pids, seconds):
    deadline = time.monotonic() + seconds
    while any(map(is_there, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "run", "down", "status", "kill", "start", "freeze", "thaw", "alarm", "ctl"):
        command = commands.add_parser(name)
        command.add_argument("folder")
        if name in ("up", "run"):
            command.add_argument("--tls-cert", help="PEM file of a certificate: it listens with TLS as well")
            command.add_argument("--tls-key", help="PEM file of its key")
            command.add_argument("--tls-ca", help="PEM file of the authority that clients need a certificate of")
        if name == "alarm":
            command.add_argument("kind", choices=["disk", "memory", "none"])
        if name == "ctl":
            command.add_argument("words", nargs=argparse.REMAINDER, help="of rabbitmqctl(8)")
    return parser.parse_args()


def main():
    options = parse()
    broker = Broker(options.folder)
    if options.command in ("up", "run"):
        if bool(options.tls_cert) != bool(options.tls_key) or (options.tls_ca and not options.tls_cert):
            stop("--tls-cert and --tls-key go together, and --tls-ca with them")
    elif not broker.state:
        stop(f"{options.folder} holds no broker")
    match options.command:
        case "up": broker.up(options)
        case "run": broker.until_the_end(options)
        case "down": broker.down()
        case "status": print(f"127.0.0.1:{broker.port('amqp')} {'up' if broker.answers() else 'down'}")
        case "kill": broker.kill()
        case "start": broker.start()
        case "freeze": broker.signal(signal.SIGSTOP)
        case "thaw": broker.signal(signal.SIGCONT)
        case "alarm": broker.alarm(options.kind)
        case "ctl": print(broker.ctl(*(options.words or stop("which command of rabbitmqctl"))), end="")


if __name__ == "__main__":
    main()
