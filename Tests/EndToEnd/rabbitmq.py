"""A RabbitMQ under test, by scripts/broker.py. One takes some 5 s to start: a file's tests share it, each in a virtual host
of its own.

    @pytest.fixture(scope="module")
    def rabbitmq():
        with RabbitMQ() as running:
            yield running

    def test_x(rabbitmq):
        with rabbitmq.virtual_host() as host:
            run("--broker", host.address, "--broker-password-file", rabbitmq.password_file)
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import uuid

import pika
import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "broker.py"
COMMAND_SECONDS = 120


def is_installed():
    return pathlib.Path("/usr/lib/rabbitmq/bin/rabbitmq-server").exists() or bool(shutil.which("rabbitmq-server"))


needs_rabbitmq = pytest.mark.skipif(not is_installed(), reason="RabbitMQ is not installed (Debian: rabbitmq-server)")


class RabbitMQ:
    """Up when the constructor returns, gone with its folder after stop(), or when this process ends.

    `address` is for --broker, `tls_address` the same for TLS or None, `password_file` for --broker-password-file.
    """

    def __init__(self, *flags):
        # The user rabbitmq has to get at it, so not in a folder that is ours alone.
        self.parent = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-broker-"))
        self.parent.chmod(0o711)
        self.folder = self.parent / "broker"
        self.process = subprocess.Popen([sys.executable, SCRIPT, "run", self.folder, *map(str, flags)],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.address, password_file, pid, tls = (self.process.stdout.readline().strip() for _ in range(4))
        if not self.address:
            message = self.process.stderr.read()
            self.stop()
            raise RuntimeError(f"the broker does not come up: {message}")
        self.password = pathlib.Path(password_file).read_text()
        # One that is readable for us as well where we are not root.
        self.password_file = self.parent / "password"
        self.password_file.write_text(self.password)
        self.password_file.chmod(0o600)
        self.tls_address = None if tls == "-" else tls
        self.host, _, port = self.address.rpartition("@")[2].rpartition(":")
        self.port = int(port)

    def do(self, command, *arguments):
        """A command of the script's. Returns what it prints."""
        done = subprocess.run([sys.executable, SCRIPT, command, self.folder, *map(str, arguments)], capture_output=True,
                              text=True, timeout=COMMAND_SECONDS)
        if done.returncode != 0:
            raise RuntimeError(f"broker {command} {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
        return done.stdout

    def ctl(self, *arguments):
        """A command of rabbitmqctl(8)."""
        return self.do("ctl", *arguments)

    def kill(self):
        """kill -9. What is durable is there again after start()."""
        self.do("kill")

    def start(self):
        """Again, on the same ports. Returns when it takes connections."""
        self.do("start")

    def freeze(self):
        """It neither reads nor answers, until thaw()."""
        self.do("freeze")

    def thaw(self):
        self.do("thaw")

    def alarm(self, kind="disk"):
        """It takes no message, until quiet(): connections that publish are told so. `kind`: disk, memory."""
        self.do("alarm", kind)

    def quiet(self):
        self.do("alarm", "none")

    def add_user(self, name, password, host="/", configure=".*", write=".*", read=".*"):
        """One who may do what these patterns of names say."""
        self.ctl("add_user", name, password)
        self.permit(name, host, configure, write, read)

    def permit(self, name, host="/", configure=".*", write=".*", read=".*"):
        self.ctl("set_permissions", "-p", host, name, configure, write, read)

    def close_connections(self, reason="by a test"):
        """As an administrator does: they are told so."""
        self.ctl("close_all_connections", "--global", reason)

    def set_message_limit(self, size):
        """Bytes that a body may have, of channels that are opened from now on."""
        self.ctl("eval", f"application:set_env(rabbit, max_message_size, {size}).")

    def virtual_host(self, name=None):
        return VirtualHost(self, name or f"t{uuid.uuid4().hex[:12]}")

    def stop(self):
        self.process.terminate()
        self.process.communicate(timeout=COMMAND_SECONDS)
        shutil.rmtree(self.parent, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class VirtualHost:
    """Names of its own: it is made by the constructor, and gone with its queues after remove().

    `address` and `tls_address` are the broker's with this host in them.
    """

    def __init__(self, broker, name):
        self.broker, self.name = broker, name
        broker.ctl("add_vhost", name)
        broker.permit(broker.address.partition("://")[2].partition("@")[0], name)
        self.address = f"{broker.address}/{name}"
        self.tls_address = broker.tls_address and f"{broker.tls_address}/{name}"

    def connect(self, **options):
        """An independent client's connection (pika)."""
        user = self.address.partition("://")[2].partition("@")[0]
        return pika.BlockingConnection(pika.ConnectionParameters(
            self.broker.host, self.broker.port, self.name, pika.PlainCredentials(user, self.broker.password), **options))

    def queues(self, *columns):
        """{name: messages}, or {name: {column: value}}: columns of rabbitmqctl's list_queues."""
        rows = json.loads(self.broker.ctl("list_queues", "-p", self.name, "--formatter", "json", "name",
                                          *(columns or ["messages"])) or "[]")
        return {row.pop("name"): row if columns else row["messages"] for row in rows}

    def delete_queue(self, name):
        self.broker.ctl("delete_queue", "-p", self.name, name)

    def set_policy(self, name, pattern, definition, apply_to="queues"):
        """`definition`: a dict, such as {"max-length": 10, "overflow": "reject-publish"}."""
        self.broker.ctl("set_policy", "-p", self.name, "--apply-to", apply_to, name, pattern, json.dumps(definition))

    def clear_policy(self, name):
        self.broker.ctl("clear_policy", "-p", self.name, name)

    def remove(self):
        self.broker.ctl("delete_vhost", self.name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()


def take(channel, queue, count=None, seconds=30):
    """Takes messages out of a queue: so many, or all that are there. Returns (method, properties, body) of each."""
    taken = []
    deadline = time.monotonic() + seconds
    while count is None or len(taken) < count:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method:
            taken.append((method, properties, body))
        elif count is None:
            return taken
        else:
            assert time.monotonic() < deadline, f"{len(taken)} messages of {count} within {seconds} s"
            time.sleep(0.02)
    return taken
