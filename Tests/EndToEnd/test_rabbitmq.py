"""scripts/broker.py: the RabbitMQ of the other tests and of the demonstrations (`make test-broker`)."""

import json
import os
import pathlib
import subprocess
import sys

import pika
import pytest
from certificates import Certificates
from rabbitmq import SCRIPT, RabbitMQ, needs_rabbitmq, take

pytestmark = [needs_rabbitmq, pytest.mark.broker]


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory):
    pair = Certificates(tmp_path_factory.mktemp("tls")).issue("broker")
    with RabbitMQ("--tls-cert", pair.certificate, "--tls-key", pair.key) as running:
        yield running
        last = processes(running.folder)
    assert not any(map(is_running, last)) and not running.parent.exists()


@pytest.fixture
def host(rabbitmq):
    with rabbitmq.virtual_host() as made:
        yield made


def processes(folder):
    """Ids of the server and its epmd."""
    state = json.loads((pathlib.Path(folder) / "broker.json").read_text())
    return [state["server"], state["epmd"]]


def is_running(pid):
    # One that has ended and that nobody waits for has no command line.
    path = pathlib.Path(f"/proc/{pid}/cmdline")
    return path.exists() and path.read_bytes() != b""


def listeners(pids):
    """Addresses that these processes listen on, in the hexadecimal of /proc/net/tcp."""
    inodes = set()
    for pid in pids:
        for each in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(each)
            except OSError:
                continue  # closed since
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    rows = [line.split() for file in ("tcp", "tcp6") for line in pathlib.Path(f"/proc/net/{file}").read_text().splitlines()[1:]]
    return {row[1].rpartition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


def test_it_listens_on_loopback_alone(rabbitmq):
    assert listeners(processes(rabbitmq.folder)) <= {"0100007F", "00000000000000000000000001000000"}
    assert "0100007F" in listeners(processes(rabbitmq.folder))


def test_what_is_durable_outlives_a_kill(rabbitmq, host):
    with host.connect() as connection:
        channel = connection.channel()
        channel.queue_declare("q", durable=True)
        channel.confirm_delivery()
        channel.basic_publish("", "q", b"kept", pika.BasicProperties(delivery_mode=2))
    port = rabbitmq.port
    rabbitmq.kill()
    assert rabbitmq.do("status") == f"127.0.0.1:{port} down\n"
    rabbitmq.start()
    assert rabbitmq.do("status") == f"127.0.0.1:{port} up\n"
    with host.connect() as connection:
        assert [body for _, _, body in take(connection.channel(), "q", 1)] == [b"kept"]


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_an_alarm_blocks_who_publishes(rabbitmq, host, kind):
    told = []
    with host.connect() as connection:
        connection.add_on_connection_blocked_callback(lambda *_: told.append("blocked"))
        connection.add_on_connection_unblocked_callback(lambda *_: told.append("unblocked"))
        channel = connection.channel()
        channel.queue_declare("q")
        rabbitmq.alarm(kind)
        try:
            channel.basic_publish("", "q", b"late")
            while told != ["blocked"]:
                connection.process_data_events(time_limit=30)
            assert host.queues() == {"q": 0}
        finally:
            rabbitmq.quiet()
        while told != ["blocked", "unblocked"]:
            connection.process_data_events(time_limit=30)
        assert take(channel, "q", 1)[0][2] == b"late"


def test_users_policies_and_limits(rabbitmq, host):
    rabbitmq.add_user(host.name, "word", host.name, write="^nothing$")
    host.set_policy("short", "^q$", {"max-length": 1, "overflow": "reject-publish"})
    rabbitmq.set_message_limit(100)
    try:
        with host.connect() as connection:
            channel = connection.channel()
            channel.queue_declare("q")
            channel.confirm_delivery()
            channel.basic_publish("", "q", b"first")
            with pytest.raises(pika.exceptions.NackError):
                channel.basic_publish("", "q", b"second")
            with pytest.raises(pika.exceptions.ChannelClosedByBroker) as closed:
                channel.basic_publish("", "q", bytes(101))
            assert closed.value.reply_code == 406
            assert host.queues("messages", "policy") == {"q": {"messages": 1, "policy": "short"}}
            host.delete_queue("q")
            assert host.queues() == {}
    finally:
        rabbitmq.set_message_limit(134217728)
        rabbitmq.ctl("delete_user", host.name)


def test_up_and_down_keep_the_folder(tmp_path_factory):
    parent = tmp_path_factory.mktemp("broker")
    for folder in (parent, *parent.parents):
        if folder.stat().st_uid == os.getuid() and folder != pathlib.Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)

    def broker(*words):
        return subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, timeout=120)

    folder = str(parent / "b")
    assert broker("status", folder).returncode == 1
    first = broker("up", folder)
    try:
        assert first.returncode == 0, first.stderr
        address, password_file, pid, tls = first.stdout.splitlines()
        assert address.startswith("amqp://holdfast@127.0.0.1:") and tls == "-"
        assert os.stat(password_file).st_mode & 0o077 == 0 and is_running(int(pid))
        assert broker("up", folder).stdout == first.stdout
    finally:
        assert broker("down", folder).returncode == 0
    assert not any(is_running(each) for each in processes(folder))
    assert os.path.exists(folder)
