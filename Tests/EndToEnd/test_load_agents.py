"""Several generators, one schedule, one ledger: `holdfast-load agent` and `run --agents`."""

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.request

import pytest

from server import Server, eventually

SECRET = "a secret of the test's own, 32 bytes"
MAGIC = b"holdfast-load agent\n"


@pytest.fixture(scope="module")
def server(binary):
    with Server(binary, "--durability", "memory") as running:
        yield running


class Agent:
    """`holdfast-load agent` on a free port."""

    def __init__(self, generator, *flags, secret=None):
        environment = {**os.environ, **({"HOLDFAST_LOAD_SECRET": secret} if secret else {})}
        self.process = subprocess.Popen(
            [generator, "agent", "--listen", "127.0.0.1:0", *map(str, flags)], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=environment)
        line = self.process.stdout.readline()
        self.port = int(re.match(r"holdfast-load: agent on 127\.0\.0\.1:(\d+)\n", line)[1])

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        out, errors = self.process.communicate(timeout=60)
        return errors


@pytest.fixture
def agents(generator):
    running = []

    def start(count, *flags, **options):
        new = [Agent(generator, *flags, **options) for _ in range(count)]
        running.extend(new)
        return new

    yield start
    for agent in running:
        agent.stop()


def command(generator, server, agents, *flags):
    return [generator, "run", "--target", server.target, "--agents", ",".join(agent.address for agent in agents),
            "--seed", "7", *map(str, flags)]


def load(generator, server, agents, *flags, secret=None, timeout=180):
    return subprocess.run(command(generator, server, agents, *flags), capture_output=True, text=True, timeout=timeout,
                          env={**os.environ, **({"HOLDFAST_LOAD_SECRET": secret} if secret else {})})


def test_three_agents_make_one_run(generator, server, agents, tmp_path):
    report, history = tmp_path / "report.json", tmp_path / "history"
    three = agents(3, secret=SECRET)
    flags = ["--scenario", "mixed", "--skus", 50, "--hot-units", 200, "--connections", 6, "--watch"]
    done = load(generator, server, three, *flags, "--rate", 300, "--duration", 2, "--warm-up", 0.5, "--json", report,
                "--history", history, secret=SECRET)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(report.read_text())
    assert told["verdict"]["result"] == "good" and told["verdict"]["feed_events"] > 0
    assert [side["address"] for side in told["agents"]] == [agent.address for agent in three]
    assert all(f"{agent.address} " in done.stdout for agent in three) and "clock within" in done.stdout
    assert all(0 <= side["clock_uncertainty_microseconds"] < 1e6 for side in told["agents"])
    # 300 a second in two seconds, each agent a third of it.
    assert abs(told["latency_microseconds"]["all"]["count"] - 600) <= 30
    assert sum(side["requests_measured"] for side in told["agents"]) == told["requests_measured"]
    assert min(side["requests_measured"] for side in told["agents"]) > 100
    assert abs(sum(interval["answered"] for interval in told["intervals"]) - sum(told["codes"].values())) <= 6
    # The merged ledger is a history as any other.
    checked = subprocess.run([generator, "check", str(history)], capture_output=True, text=True, timeout=120)
    assert checked.returncode == 0 and "linearizable: yes" in checked.stdout, checked.stdout
    # They make another run, with a number of calls, and SKUs of their own.
    done = load(generator, server, three, "--skus", 7, "--operations", 200, "--agent-skus", "own", "--connections", 3,
                "--json", report, secret=SECRET)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(report.read_text())
    assert 200 <= told["attempts"] <= 230 and told["verdict"]["result"] == "good"


def test_it_sells_what_no_agent_sees(generator, binary, agents):
    """Two loops sell the same unit, each to another agent: only all ledgers together show it."""
    two = agents(2)
    for _ in range(8):  # a race: nearly every run shows it
        with Server(binary, "--loops", "2", "--concurrency", "unchecked-for-demonstration",
                    "--durability", "memory") as server:
            done = load(generator, server, two, "--skus", 1, "--units", 500, "--operations", 20000, "--connections", 8)
        if done.returncode == 1:
            break
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"VERDICT: OVERSOLD by [\d,]+ units? on SKU", done.stdout), done.stdout


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_an_agent_is_lost(generator, server, agents, tmp_path, how):
    report, history, junit = tmp_path / "report.json", tmp_path / "history", tmp_path / "junit.xml"
    two = agents(2)
    process = subprocess.Popen(
        command(generator, server, two, "--rate", 100, "--duration", 120, "--warm-up", 0, "--json", report, "--history",
                history, "--junit", junit, "--metrics-port", 0),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    port = re.search(r":(\d+)/metrics", process.stderr.readline())[1]

    def answered():
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        return "holdfast_load_agents 2" in page and 'holdfast_load_responses_total{code="OK"} 0\n' not in page

    eventually(answered, seconds=60)
    two[0].process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    out, errors = process.communicate(timeout=90)
    assert process.returncode == 2, out + errors
    told = json.loads(report.read_text())
    assert told["is_partial"] and told["verdict"]["result"] == "unknown"
    assert f"agent {two[0].address} was lost" in told["verdict"]["reason"]
    assert told["agents"][0]["lost"] and "lost" not in told["agents"][1]
    assert told["agents"][1]["requests_measured"] > 0
    assert not history.exists() or history.stat().st_size == 0
    assert "no history was written" in out and "<error" in junit.read_text()
    # The other is there for the next run.
    done = load(generator, server, two[1:], "--operations", 100)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_interrupt_ends_all(generator, server, agents, tmp_path):
    report = tmp_path / "report.json"
    two = agents(2)
    process = subprocess.Popen(
        command(generator, server, two, "--rate", 200, "--duration", 120, "--warm-up", 0, "--json", report, "--hdr",
                tmp_path / "log", "--interval", "0.25"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    eventually(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text().count("HIST") > 3, seconds=60)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, out + errors
    told = json.loads(report.read_text())
    assert told["is_partial"] and told["verdict"]["result"] == "good", out
    for agent in two:
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(timeout=30) == 0


def test_a_coordinator_that_goes_away(generator, server, agents, tmp_path):
    """Its agents stop making load, and wait for another."""
    (agent,) = agents(1)
    process = subprocess.Popen(
        command(generator, server, [agent], "--rate", 100, "--duration", 300, "--warm-up", 0, "--hdr", tmp_path / "log",
                "--interval", "0.25"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Another that came first would have the agent.
    eventually(lambda: (tmp_path / "log").exists() and "HIST" in (tmp_path / "log").read_text(), seconds=60)
    busy = load(generator, server, [agent], "--operations", 10).stderr
    assert f"agent {agent.address}: it says: it makes another run" in busy
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while True:
        done = load(generator, server, [agent], "--operations", 100)
        if done.returncode == 0 or time.monotonic() > deadline:
            break
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("theirs, ours", [(SECRET, SECRET + "x"), (SECRET, None), (None, SECRET)])
def test_another_secret(generator, server, agents, theirs, ours):
    (agent,) = agents(1, secret=theirs)
    done = load(generator, server, [agent], "--operations", 10, secret=ours)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(rf"holdfast-load: agent {re.escape(agent.address)}: .*secret.*\n", done.stderr), done.stderr


def test_a_secret_from_a_file(generator, server, agents, tmp_path):
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    (agent,) = agents(1, "--agent-secret-file", file)
    done = load(generator, server, [agent], "--operations", 50, secret=SECRET)
    assert done.returncode == 0, done.stdout + done.stderr
    file.write_text("short")
    done = load(generator, server, [agent], "--operations", 50, "--agent-secret-file", file)
    assert done.returncode == 2 and "16 to 1024 bytes" in done.stderr


def test_beyond_loopback_it_needs_a_secret(generator):
    done = subprocess.run([generator, "agent", "--listen", "0.0.0.0:0"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and "needs a secret" in done.stderr
    done = subprocess.run([generator, "run", "--agents", "192.0.2.1:7430", "--operations", "1"], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.strip(), done.stderr


def test_a_target_that_is_not_allowed(generator, server, agents):
    (agent,) = agents(1, "--allow-target", "127.0.0.1:1")
    done = load(generator, server, [agent], "--operations", 10)
    assert done.returncode == 2 and f"{server.target} is no target that this agent allows" in done.stderr
    (free,) = agents(1, "--allow-target", "any")
    assert load(generator, server, [free], "--operations", 10).returncode == 0


def test_an_agent_that_is_not_there(generator, server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = subprocess.run([generator, "run", "--target", server.target, "--agents", f"127.0.0.1:{port}", "--operations", "10"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "is holdfast-load agent running there?" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# What is no peer -------------------------------------------------------------------------------------


def hello(version=1, magic=MAGIC):
    body = bytes([1]) + magic + struct.pack(">H", version) + bytes(32)
    return struct.pack(">I", len(body)) + body


HOSTILE = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a length of nothing": bytes(8),
    "a length of 4 GB": b"\xff" * 64,
    "an unknown kind": struct.pack(">IB", 1, 99),
    "another program": hello(magic=b"holdfast-load dragon"),
    "a short hello": hello()[:-16] ,
    "a job before the hello": struct.pack(">IB", 3, 4) + b"{}",
    "nothing": b"",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_bytes_for_an_agent(generator, server, agents, what):
    (agent,) = agents(1)
    with socket.create_connection(("127.0.0.1", agent.port), timeout=30) as peer:
        peer.sendall(HOSTILE[what])
        peer.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while peer.recv(4096):
                pass
    done = load(generator, server, [agent], "--operations", 20)
    assert done.returncode == 0, done.stdout + done.stderr


def test_another_version(generator, server, agents):
    (agent,) = agents(1)
    with socket.create_connection(("127.0.0.1", agent.port), timeout=30) as peer:
        peer.sendall(hello(version=2))
        answer = peer.recv(4096)
    assert answer[4] == 3 and b"versions 2 and 1 do not go together: use the same holdfast-load" in answer


@contextlib.contextmanager
def false_agent(*answers):
    """Sends each of `answers` once something has come."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def serve():
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(30)
                for answer in answers:
                    if not peer.recv(65536):
                        return
                    peer.sendall(answer)
                with contextlib.suppress(OSError):
                    while peer.recv(65536):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("answers, words", [
    ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "does not speak holdfast-load's agent protocol"),
    ([hello(version=7)], "of versions 7 and 1 do not go together"),
    ([hello(), struct.pack(">IB", 33, 2) + bytes(32)], "its secret is another one"),
    ([struct.pack(">IB", 12, 3) + b"\x1b[31mred\x07\n!"], "it says: "),
])
def test_hostile_bytes_for_a_coordinator(generator, server, answers, words):
    with false_agent(*answers) as port:
        done = subprocess.run([generator, "run", "--target", server.target, "--agents", f"127.0.0.1:{port}",
                               "--operations", "10"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "\x1b" not in done.stderr


@pytest.mark.parametrize("flags, words", [
    (["--threads", 5, "--connections", 8], "--threads of all --agents together"),
    (["--agent-skus", "own", "--skus", 1], "--agent-skus own needs an SKU for each agent"),
])
def test_flags_that_do_not_go_together(generator, server, flags, words):
    done = subprocess.run([generator, "run", "--target", server.target, "--agents", "127.0.0.1:1,127.0.0.1:2",
                           *map(str, flags)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and words in done.stderr, done.stderr
