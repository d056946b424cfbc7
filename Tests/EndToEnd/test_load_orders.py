"""Orders of the load generator through a real RabbitMQ and a real intake (`make test-broker`): the same verdict as of calls."""

import json
import os
import re
import subprocess
import time

import pytest
from certificates import Certificates
from rabbitmq import RabbitMQ, needs_rabbitmq
from server import eventually

pytestmark = [needs_rabbitmq, pytest.mark.broker]


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("broker"))


@pytest.fixture(scope="module")
def rabbitmq(authority):
    pair = authority.issue("broker")
    with RabbitMQ("--tls-cert", pair.certificate, "--tls-key", pair.key) as running:
        yield running


@pytest.fixture
def host(rabbitmq):
    with rabbitmq.virtual_host() as made:
        yield made


@pytest.fixture
def intake(binary, server, host):
    """intake() starts one; all are stopped at the end."""
    running = []

    def start():
        process = subprocess.Popen(
            [binary, "intake", "--broker", host.address, "--target", server.target, "--partitions", "4",
             "--broker-password-file", host.broker.password_file],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        running.append(process)
        assert process.stdout.readline().startswith("holdfast taking orders: ")
        eventually(lambda: len(host.queues("consumers")) == 6, 60)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
        process.stdout.close()


def command(generator, server, address, host, *flags):
    return [generator, "run", "--target", server.target, "--via", address, "--broker-password-file",
            host.broker.password_file, "--warm-up", "0", *map(str, flags)]


def test_the_verdict_of_orders(generator, server, host, intake, tmp_path):
    """Carts, repetitions, limits, refusals and expiries; events and history say the same afterwards."""
    intake()
    report_file, history = tmp_path / "report.json", tmp_path / "history"
    done = subprocess.run(
        command(generator, server, host.address, host, "--duration", 4, "--skus", 20, "--units", 200, "--lines", "1-4",
                "--ttl", 1, "--confirm-share", 0.2, "--release-share", 0.3, "--extend-share", 0.1, "--duplicate-share", 0.1,
                "--restock-share", 0.02, "--max-units", 150, "--subjects", 5, "--threads", 2, "--watch", "--json", report_file,
                "--history", history), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(report_file.read_text())
    assert report["outcomes"]["reserved"] > 300 and report["outcomes"]["replayed"] > 20, done.stdout
    assert report["check"]["feed"]["is_whole"] and report["check"]["feed"]["kinds"]["EXPIRED"] > 0
    assert " via amqp://127.0.0.1:" in report["configuration"]["target"]
    assert host.broker.password not in report_file.read_text() + done.stdout + done.stderr
    for words in (["check", history], ["audit", history, "--target", server.target]):
        again = subprocess.run([generator, *words], capture_output=True, text=True, timeout=120)
        assert again.returncode == 0, again.stdout + again.stderr
    assert set(host.queues().values()) == {0}


def test_whatever_is_killed(generator, server, rabbitmq, host, intake, tmp_path):
    """Orders are published again over a broker that is killed, and decided once; so over an intake that is."""
    first, report_file = intake(), tmp_path / "report.json"
    process = subprocess.Popen(
        command(generator, server, host.address, host, "--rate", 200, "--duration", 14, "--skus", 5, "--units", 600,
                "--json", report_file), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(1.5)
    rabbitmq.kill()
    rabbitmq.start()
    time.sleep(1)
    first.kill()
    first.wait()
    intake()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    report = json.loads(report_file.read_text())
    assert report["connections_lost"] >= 1 and report["connections_redialled"] >= 1, output
    assert "unanswered" not in report["outcomes"] and "unsent" not in report["outcomes"], output
    assert report["outcomes"]["reserved"] + report["outcomes"].get("refused, no stock", 0) > 1_000, output


def test_over_tls(generator, server, authority, host, intake, tmp_path):
    intake()

    def run(*flags):
        return subprocess.run(command(generator, server, host.tls_address, host, "--operations", 200, *flags),
                              capture_output=True, text=True, timeout=60)

    done = run("--broker-ca", authority.authority)
    assert done.returncode == 0, done.stdout + done.stderr
    other = Certificates(tmp_path / "other", "Another authority")
    for flags in (["--broker-ca", other.authority], []):
        done = run(*flags)
        assert done.returncode == 2 and "certificate" in done.stderr, done.stdout + done.stderr


def test_what_it_says_of_brokers(generator, server, rabbitmq, host, tmp_path):
    """One line each, and no load."""
    wrong = tmp_path / "wrong"
    wrong.write_text("no such password\n")
    plain, secure = host.address, host.tls_address
    for address, flags, words in [
        (plain, ("--broker-password-file", wrong), "ACCESS_REFUSED"),
        (plain, ("--broker-password-file", tmp_path / "none"), "the password file"),
        (re.sub("/[^/]*$", "/none", plain), (), "virtual host 'none'"),
        # Nobody has declared where orders go, and where answers come from.
        (plain, (), "no exchange 'orders'"),
        (plain, ("--orders", "amq.topic"), "no exchange 'orders.answers'"),
        (f"amqp://{secure.partition('://')[2]}", (), "amqps://"),
        (f"amqps://{plain.partition('://')[2]}", (), "does not speak TLS"),
        ("kafka://127.0.0.1:9092", (), "not to Kafka"),
        ("http://127.0.0.1", (), "amqp://USER@HOST"),
    ]:
        done = subprocess.run(command(generator, server, address, host, "--operations", 1, *flags), capture_output=True,
                              text=True, timeout=60, env={**os.environ, "HOLDFAST_BROKER_PASSWORD": ""})
        assert done.returncode == 2 and words in done.stderr, (address, flags, done.stdout, done.stderr)
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_orders_that_nobody_takes(generator, server, host):
    """The exchanges are there, and no intake: nothing is accepted and nothing lost, and that is no verdict."""
    done = subprocess.run(
        command(generator, server, host.address, host, "--orders", "amq.fanout", "--answers", "amq.topic", "--duration", 1),
        capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "NO VERDICT: no order was answered: does `holdfast intake` take orders from exchange 'amq.fanout'" in done.stdout
