"""What surrounds the process: its environment, signals, limits, addresses, and whoever reads its log."""

import fcntl
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request

import grpc
import pytest
from grpc import StatusCode

from client import Client, fresh, line, refused
from holdfast.v1 import reservation_pb2
from server import READY, eventually, holdfast, serve_command
from test_lifecycle import metric

SMALL = ["--max-items", "100000", "--max-reservations", "100000"]


def log(server):
    return [json.loads(entry) for entry in server.log_text().splitlines()]


def warnings(server):
    return [entry["message"] for entry in log(server) if entry["level"] == "warning"]


def one_line(text):
    (only,) = text.splitlines()
    return only


def run(*command, environment=(), seconds=30):
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=seconds,
                          env={**os.environ, **dict(environment)})


def reserve_request(sku):
    return reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku)])


@pytest.fixture
def limited():
    """limited("--as=1000") is the start of a command that runs under that limit."""
    if not shutil.which("prlimit"):
        pytest.skip("needs prlimit of util-linux")
    return lambda *limits: ["prlimit", *limits]


# The environment and the configuration file.

SERVICE_LINKS = {
    "HOLDFAST_SERVICE_HOST": "10.0.0.7", "HOLDFAST_SERVICE_PORT": "7420",
    "HOLDFAST_SERVICE_PORT_GRPC": "7420", "HOLDFAST_PORT": "tcp://10.0.0.7:7420",
    "HOLDFAST_PORT_7420_TCP": "tcp://10.0.0.7:7420", "HOLDFAST_PORT_7420_TCP_PROTO": "tcp",
    "HOLDFAST_PORT_7420_TCP_PORT": "7420", "HOLDFAST_PORT_7420_TCP_ADDR": "10.0.0.7",
    # Of a service that is named holdfast-admin, by IPv6.
    "HOLDFAST_ADMIN_PORT": "tcp://[fd00::7]:7421", "HOLDFAST_ADMIN_SERVICE_HOST": "fd00::7"}


def test_what_kubernetes_tells_of_services_is_no_setting(binary, tmp_path):
    done = run(binary, "serve", "--print-config", environment=SERVICE_LINKS)
    assert done.returncode == 0
    values = settings(done.stdout)
    assert values["port"] == ("7420", "default") and values["admin-port"] == ("7421", "default")
    for name in ("HOLDFAST_PORT=tcp://10.0.0.7:7420", "HOLDFAST_ADMIN_PORT=tcp://[fd00::7]:7421"):
        assert name in done.stderr, done.stderr
    # A flag or a file still says it.
    config = tmp_path / "config.json"
    config.write_text('{"port": 17431}')
    done = run(binary, "serve", "--print-config", "--config", config, environment=SERVICE_LINKS)
    assert settings(done.stdout)["port"][0] == "17431"


def settings(text):
    """What --print-config says: for each name, value and source."""
    return {found[1]: (found[2], found[3])
            for found in re.finditer(r"^(\S+) = (.*?)  \((.*)\)$", text, re.MULTILINE)}


def test_a_server_beside_a_service_of_its_name_starts_with_a_warning(binary, tmp_path):
    config = tmp_path / "config.json"
    config.write_text('{"port": 0, "admin-port": 0, "durability": "memory"}')
    process = subprocess.Popen([binary, "serve", "--config", config], env={**os.environ, **SERVICE_LINKS},
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        ready = READY.match(process.stdout.readline())
        with Client(f"{ready[1]}:{ready[2]}") as client:
            client.reserve(line(client.item(1)))
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    skipped = [entry for entry in map(json.loads, errors.splitlines()) if "Kubernetes" in entry["message"]]
    assert [entry["level"] for entry in skipped] == ["warning", "warning"]
    assert "HOLDFAST_PORT=tcp://10.0.0.7:7420" in skipped[0]["message"]


@pytest.mark.parametrize("variable, value", [
    ("HOLDFAST_PORT", "x"), ("HOLDFAST_PORT", "tcp:/10.0.0.7:7420"), ("HOLDFAST_PORT", "tcp://10.0.0.7"),
    ("HOLDFAST_PORT", "http://10.0.0.7:7420"), ("HOLDFAST_PORT", ""), ("HOLDFAST_PORT", "74200"),
    ("HOLDFAST_LOOPS", "tcp://10.0.0.7:7420"), ("HOLDFAST_ADMIN_PORT", "tcp://10.0.0.7:7420/")])
def test_another_value_that_is_none_is_a_mistake(binary, variable, value):
    done = run(binary, "serve", "--print-config", environment={variable: value})
    assert done.returncode == 64 and variable in one_line(done.stderr), done.stderr


@pytest.mark.parametrize("name, value", [
    ("port", "17430.5"), ("port", "null"), ("port", "[17430]"), ("port", '{"a": 1}'), ("port", "true"),
    ("port", "false"), ("port", "1e99"), ("port", "99999999999999999999"), ("port", "-1"),
    ("port", '"x"'), ("port", '""'), ("admin-port", "null"), ("loops", "true"), ("loops", "1.5"),
    ("max-items", "[]"), ("max-connections", "{}"), ("journal-segment-bytes", "1.1e7"),
    ("host", "127"), ("host", "null"), ("host", "true"), ("data-dir", "7"), ("data-dir", '["/tmp"]'),
    ("max-hold", "30"), ("default-ttl", "null"), ("shutdown-timeout", "true"), ("durability", "null"),
    ("concurrency", "1"), ("log-level", "[]"), ("log-format", "{}")])
def test_a_value_of_a_wrong_type_in_the_file_is_a_mistake(binary, tmp_path, name, value):
    config = tmp_path / "config.json"
    config.write_text(f'{{"{name}": {value}}}')
    done = run(binary, "serve", "--print-config", "--config", config)
    assert done.returncode == 64, done.stdout + done.stderr
    assert f"{name} in {config}" in one_line(done.stderr)


@pytest.mark.parametrize("text", ["", "[]", "7", "null", '{"port": }', '{"port": 1', "\0", '{"port": 1} x'])
def test_a_file_that_is_no_json_object_is_a_mistake(binary, tmp_path, text):
    config = tmp_path / "config.json"
    config.write_text(text)
    done = run(binary, "serve", "--print-config", "--config", config)
    assert done.returncode == 64 and str(config) in one_line(done.stderr)


def test_strings_and_whole_numbers_of_the_file_are_settings(binary, tmp_path):
    config = tmp_path / "config.json"
    config.write_text('{"port": 17430, "admin-port": "17431", "loops": 3, "max-hold": "30s", "default-ttl": "20s"}')
    done = run(binary, "serve", "--print-config", "--config", config)
    values = settings(done.stdout)
    assert [values[name][0] for name in ("port", "admin-port", "loops", "max-hold", "default-ttl")] == [
        "17430", "17431", "3", "30s", "20s"]


# Signals, and the reader of the log.


def test_sighup_is_noted_and_no_call_is_lost(start):
    server = start()
    with Client(server.target) as client:
        sku = client.item(1_000)
        calls = []
        for _ in range(20):
            calls += [client.reservations.Reserve.future(reserve_request(sku), timeout=20) for _ in range(20)]
            server.process.send_signal(signal.SIGHUP)
        for call in calls:
            call.result()
        assert client.level(sku).held == 400
    eventually(lambda: any("SIGHUP" in entry["message"] for entry in log(server)))
    assert server.stop() == 0


def test_the_reader_of_log_and_output_goes_away(binary, tmp_path):
    """serve 2>&1 | head -1"""
    process = subprocess.Popen(serve_command(binary, tmp_path), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        ready = next(found for text in process.stdout if (found := READY.match(text)))
        process.stdout.close()
        with Client(f"127.0.0.1:{ready[2]}") as client:
            sku = client.item(10)
            for _ in range(5):
                process.send_signal(signal.SIGHUP)  # it has something to say
                client.reserve(line(sku))
            assert client.level(sku).held == 5
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@pytest.mark.parametrize("streams", [">&- 2>&-", "<&- >&- 2>&-", "2>&-", "> /dev/full 2> /dev/full"])
def test_a_server_without_output_serves(binary, tmp_path, streams):
    port = free_port()
    command = [*serve_command(binary, tmp_path), "--port", str(port)]
    process = subprocess.Popen(["sh", "-c", f'exec "$@" {streams}', "sh", *map(str, command)],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with Client(f"127.0.0.1:{port}") as client:
            grpc.channel_ready_future(client.channel).result(20)
            process.send_signal(signal.SIGHUP)
            client.reserve(line(client.item(1)))
        process.terminate()
        assert process.wait(20) == 0
        # Nothing that was printed is in a file of the journal.
        assert holdfast(binary, "verify", tmp_path).returncode == 0
    finally:
        process.kill()
        process.wait()


def test_a_reader_that_is_asleep_stops_nothing_and_hears_what_it_missed(binary, tmp_path):
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    process = subprocess.Popen(serve_command(binary, tmp_path), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=writing, text=True)
    os.close(writing)
    try:
        ready = next(found for text in process.stdout if (found := READY.match(text)))
        with Client(f"127.0.0.1:{ready[2]}") as client:
            sku = client.item(100)
            for _ in range(100):
                process.send_signal(signal.SIGHUP)
                client.reserve(line(sku))
        process.terminate()
        text = b""
        while part := os.read(reading, 65536):
            text += part
        assert process.wait(20) == 0
        missed = [json.loads(row) for row in text.splitlines() if b"did not take lines" in row]
        assert missed and all(isinstance(entry["lines"], int) and entry["lines"] > 0 for entry in missed)
    finally:
        os.close(reading)
        process.kill()
        process.wait()


def test_numbers_in_logs_are_numbers(start, tmp_path):
    server = start(data=tmp_path)
    with Client(server.target) as client:
        client.item(1)
    server.stop()
    server = start(data=tmp_path)
    # It is logged after the line that the test waits for.
    eventually(lambda: any(entry["message"] == "ready" for entry in log(server)))
    entries = {entry["message"]: entry for entry in log(server)}
    for name in ("decisions", "items", "live-reservations", "lsn", "records", "bytes", "torn-bytes"):
        assert type(entries["recovered"][name]) is int, entries
    assert isinstance(entries["recovered"]["seconds"], (int, float))
    assert type(entries["ready"]["loops"]) is int and type(entries["ready"]["connections-max"]) is int
    assert isinstance(entries["recovered"]["digest"], str)


# Limits of the system.


def test_fewer_files_than_connections_is_told(binary, start, limited):
    prefix = limited("--nofile=1024")
    done = run(*prefix, binary, "serve", "--print-config", "--max-connections", "5000")
    assert done.returncode == 0
    value, source = settings(done.stdout)["max-connections"]
    assert 0 < int(value) < 1024 and "--max-connections" in source and "5000" in source and "1024" in source
    for number in ("5000", "1024", value):
        assert number in one_line(done.stderr)
    server = start("--max-connections", "5000", prefix=prefix)
    (warning,) = [text for text in warnings(server) if "--max-connections" in text]
    assert "5000" in warning and "1024" in warning and value in warning
    # Enough of them: nothing to tell.
    done = run(binary, "serve", "--print-config", "--max-connections", "100")
    assert settings(done.stdout)["max-connections"] == ("100", "--max-connections") and not done.stderr
    # Nobody asked for the default.
    done = run(*prefix, binary, "serve", "--print-config")
    assert settings(done.stdout)["max-connections"][0] == value and not done.stderr


@pytest.mark.parametrize("command", ["serve", "serve-memory", "verify", "dump", "repair"])
def test_too_little_address_space_is_one_line_that_names_the_flags(binary, limited, tmp_path, command):
    """ulimit -v 4000000"""
    data = tmp_path / "data"
    arguments = {
        "serve": serve_command(binary, data)[1:],
        "serve-memory": [*serve_command(binary, data)[1:], "--durability", "memory",
                         "--max-reservations", "100000000"],
        "verify": ["verify", data], "dump": ["dump", data], "repair": ["repair", data, "--truncate-at", "0"],
    }[command]
    if not command.startswith("serve"):
        process = subprocess.Popen(serve_command(binary, data), stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True)
        assert READY.match(process.stdout.readline())
        process.terminate()
        process.wait(20)
        process.stdout.close()
        if command == "repair":
            before = run(binary, "verify", data)
    done = run(*limited("--as=4096000000"), binary, *arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    told = one_line("\n".join(text for text in done.stderr.splitlines() if not text.startswith("{")))
    assert "--max-items" in told and "--max-reservations" in told and "ulimit -v" in told
    if command == "serve":
        assert list(data.iterdir()) == [] or not any(data.glob("journal-*"))
    if command == "repair":
        after = run(binary, "verify", data)
        assert before.returncode == 0 and (after.returncode, after.stdout) == (0, before.stdout), after.stderr
    # With caps that fit there is room.
    if command == "serve":
        small = tmp_path / "small"
        process = subprocess.Popen(
            [*limited("--as=4096000000"), *serve_command(binary, small, *SMALL)], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True)
        assert READY.match(process.stdout.readline())
        process.terminate()
        assert process.wait(20) == 0
        process.stdout.close()
        done = run(*limited("--as=4096000000"), binary, "verify", small)
        assert done.returncode == 0, done.stderr


def limit_file_size(process, most):
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def test_a_file_size_limit_is_a_full_disk(start, limited, tmp_path):
    """Changes are refused, reads go on, and the server starts again under the limit."""
    data, flags = tmp_path / "data", ["--journal-segment-bytes", str(1 << 20), "--loops", "2"]
    server = start(*flags, data=data)
    with Client(server.target) as client:
        cart = [line(client.item(1_000_000)) for _ in range(64)]
        sku = cart[0].sku
        held = [client.reserve(*cart, ttl=3600) for _ in range(100)]
    assert server.stop() == 0
    # Files end where the journal has come to already, and where it comes to soon.
    for most in (65536, 300_000):
        server = start(*flags, data=data, prefix=limited(f"--fsize={most}"))
        with Client(server.target) as client:
            for _ in range(5_000):
                try:
                    held.append(client.reserve(*cart, ttl=3600))
                except grpc.RpcError:
                    break
            for change in (lambda: client.reserve(*cart), lambda: client.adjust(sku, delta=1),
                           lambda: client.release(held[0].reservation_id)):
                with refused(StatusCode.UNAVAILABLE, "STORAGE_FULL"):
                    change()
            assert metric(server, "holdfast_journal_accepting") == 0
            assert client.level(sku).held == len(held)
            assert client.get(held[-1].reservation_id).reservation_id == held[-1].reservation_id
        assert server.stop() == 0, server.log_text()
    server = start(*flags, data=data)
    with Client(server.target) as client:
        assert client.level(sku).held == len(held)
        for reservation in held:
            client.release(reservation.reservation_id)
        assert client.level(sku).held == 0


def test_a_file_size_limit_that_comes_while_it_runs(start, tmp_path):
    """A call whose write finds no room waits for it; others are refused meanwhile."""
    server = start("--journal-segment-bytes", str(1 << 20), "--loops", "2", data=tmp_path)
    with Client(server.target) as client:
        sku = client.item(1_000)
        held = client.reserve(line(sku), ttl=3600)
        limit_file_size(server.process, 4096)
        waiting = client.reservations.Reserve.future(reserve_request(sku), timeout=30)
        eventually(lambda: metric(server, "holdfast_journal_accepting") == 0)
        with refused(StatusCode.UNAVAILABLE, "STORAGE_FULL"):
            client.reserve(line(sku))
        assert client.get(held.reservation_id).reservation_id == held.reservation_id
        assert not waiting.done() and server.is_alive()
        limit_file_size(server.process, resource.RLIM_INFINITY)
        waiting.result()
        eventually(lambda: metric(server, "holdfast_journal_accepting") == 1)
        client.reserve(line(sku))
        assert client.level(sku).held == 3
    server.kill()
    with Client(start(data=tmp_path).target) as client:
        assert client.level(sku).held == 3


@pytest.mark.parametrize("flag", ["--json", "--html", "--history"])
def test_the_generator_tells_its_verdict_under_a_file_size_limit(generator, start, limited, tmp_path, flag):
    server = start("--durability", "memory")
    target = tmp_path / "report"
    done = run(*limited("--fsize=512"), generator, "run", "--target", server.target, "--duration", "1",
               flag, target, seconds=60)
    assert done.returncode > 0, "no signal has ended it"
    assert "VERDICT" in done.stdout and str(target) in done.stderr, done.stdout + done.stderr


@pytest.mark.parametrize("quota, loops", [(25_000, 1), (100_000, 1), (-1, None)])
def test_loops_follow_the_control_group(binary, quota, loops):
    folder = pathlib.Path("/sys/fs/cgroup/cpu") / f"holdfast-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "cpu.cfs_quota_us").write_text(str(quota))
    except OSError as error:
        pytest.skip(f"needs the right to make a control group: {error}")
    try:
        done = run("sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$@"', "sh",
                   binary, "serve", "--print-config")
        value, source = settings(done.stdout)["loops"]
        assert int(value) == (loops or len(os.sched_getaffinity(0))) and source == "default: auto"
    finally:
        eventually(lambda: removed(folder))


def removed(folder):
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


# Addresses.


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


HOSTS = ["localhost", *(["::1", "[::1]"] if has_ipv6() else [])]


@pytest.mark.parametrize("host", HOSTS)
def test_names_of_hosts_are_resolved(binary, generator, tmp_path, host):
    process = subprocess.Popen(
        [*serve_command(binary, tmp_path), "--host", host, "--admin-host", host, "--durability", "memory"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        ready = READY.match(process.stdout.readline())
        assert ready[1] in ("127.0.0.1", "[::1]")
        with Client(f"{ready[1]}:{ready[2]}") as client:
            client.reserve(line(client.item(1)))
        assert urllib.request.urlopen(f"http://{ready[3]}:{ready[4]}/livez", timeout=10).status == 200
        name = "localhost" if host == "localhost" else "[::1]"
        done = run(generator, "run", "--target", f"{name}:{ready[2]}", "--admin", f"{name}:{ready[4]}",
                   "--duration", "0.5", seconds=60)
        assert done.returncode == 0 and "VERDICT" in done.stdout, done.stdout + done.stderr
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.stdout.close()


@pytest.mark.parametrize("flag", ["--host", "--admin-host"])
@pytest.mark.parametrize("host", ["nobody.invalid", "127.0.0.1:80", "a b", "1.2.3.4.5"])
def test_a_name_that_nobody_has_is_one_line(binary, tmp_path, flag, host):
    done = run(binary, *serve_command(binary, tmp_path)[1:], "--durability", "memory", flag, host, seconds=60)
    assert done.returncode == 1
    told = one_line(done.stderr)
    assert host in told and flag in told and "ioctl" not in told


@pytest.mark.parametrize("flag", ["--target", "--admin"])
def test_a_target_that_nobody_has_is_one_line(generator, flag):
    done = run(generator, "run", flag, "nobody.invalid:7420", "--duration", "1", seconds=60)
    assert done.returncode == 2 and "nobody.invalid" in done.stderr.splitlines()[0], done.stderr


@pytest.mark.parametrize("taken", [("port",), ("admin-port",), ("port", "admin-port")], ids="+".join)
def test_taken_ports_are_told_in_one_sentence_before_the_recovery(binary, tmp_path, taken):
    sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in taken}
    try:
        ports = {name: taken.getsockname()[1] for name, taken in sockets.items()}
        flags = [text for name, port in ports.items() for text in (f"--{name}", str(port))]
        done = run(*serve_command(binary, tmp_path), *flags)
        assert done.returncode == 1 and "recover" not in done.stderr
        told = one_line("\n".join(text for text in done.stderr.splitlines() if not text.startswith("{")))
        for name, port in ports.items():
            assert f"127.0.0.1:{port}" in told and f"--{name}" in told
        assert told.count("choose") == 1 and not any(tmp_path.glob("journal-*"))
    finally:
        for opened in sockets.values():
            opened.close()


def test_a_port_that_waits_for_the_recovery_refuses_calls(start):
    """Nobody is kept waiting by a socket that nothing listens on: two servers, one port."""
    server = start("--durability", "memory")
    with pytest.raises(RuntimeError, match=str(server.port)):
        start("--durability", "memory", "--port", str(server.port))
    with Client(server.target) as client:
        client.reserve(line(client.item(1)))


# The admin port.


@pytest.mark.parametrize("target, status", [
    ("/metrics", 200), ("//metrics", 404), ("/metrics/", 404), ("//", 404), ("/./metrics", 404),
    ("http://anyone:7421/metrics", 200), ("HTTP://anyone/livez?x=1", 200), ("http://anyone", 200),
    ("http://anyone//metrics", 404), ("ftp://anyone/metrics", 400), ("metrics", 400), ("*", 400)])
def test_admin_targets(server, target, status):
    with socket.create_connection(("127.0.0.1", server.admin_port), 10) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: anyone\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == str(status).encode(), head
    if status == 200 and "/metrics" in target:
        assert b"holdfast_build_info" in body and b"text/plain; version=0.0.4" in head
