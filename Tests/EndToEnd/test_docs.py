"""What the documents tell people to paste works when pasted; what they point at is there."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request

import engines
import grpc
import pytest
from client import Client, refused
from holdfast.v1 import backup_pb2, event_pb2, reservation_pb2, stock_pb2
from server import STOP_SECONDS, Server, eventually, holdfast, serve_command

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md",
         *sorted(f"docs/{page.name}" for page in (REPOSITORY / "docs").glob("*.md")),
         "examples/README.md", *sorted(f"examples/{page.parent.name}/README.md" for page in REPOSITORY.glob("examples/*/README.md")),
         "tools/bench/README.md", "LoadTest/README.md"]
TEXT = {page: (REPOSITORY / page).read_text() for page in PAGES}
COMMANDS = [(page, block) for page in PAGES for block in
            re.findall(r"^```sh\n(.*?)^```", TEXT[page], re.MULTILINE | re.DOTALL)]
# Blocks that are not run here, by how their lines begin, and why. Their targets and flags are checked.
NOT_RUN = {
    "make": "builds, or is the suite that runs this",
    "tools/bench/ratio.py": "measures the release build for minutes",
    ".build/release/": "needs the release build",
    "HOLDFAST": "needs the release build",
    "holdfast-load": "needs the release build; those of docs/BENCHMARKING.md are run by test_benchmarking.py",
}


# Pages whose every command a test runs.
RUN_BY_OTHERS = {
    "docs/GETTING-STARTED.md": "test_getting_started", "docs/OPERATIONS.md": "test_operations", "docs/HIGH-AVAILABILITY.md": "test_high_availability",
    "docs/INSTALLATION.md": "test_installation.py", "docs/METRICS.md": "test_metrics.py", "docs/EVENTS.md": "test_relay.py, test_intake.py",
    "docs/CLIENTS.md": "test_clients_page.py", "docs/COMMAND-LINE.md": "test_command_line.py", "docs/CONSOLE.md": "test_the_console_as_json",
}


def lines(block):
    """Its commands, without comments; lines that go on are one."""
    joined = block.replace("\\\n", " ")
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines()) if line]


def test_the_first_call_from_python(server, tmp_path):
    (script,) = [block for page, block in COMMANDS if page == "README.md" and "grpc_tools.protoc" in block]
    script = script.replace(".venv/bin/python", sys.executable).replace("out/python", str(tmp_path))
    script = script.replace("127.0.0.1:7420", server.target)
    done = subprocess.run(["bash", "-euc", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "on_hand: 98" in done.stdout


def test_getting_started(binary, generator, tmp_path):
    """docs/GETTING-STARTED.md and the README's first sale: each line, in order, by a server with nothing in it."""
    pages = [[line for where, block in COMMANDS if where == page for line in lines(block) if line.startswith("holdfast")]
             for page in ("docs/GETTING-STARTED.md", "README.md")]
    assert len(pages[0]) >= 15 and len(pages[1]) > 3
    refused_lines = []
    for commands in pages:
        with Server(binary) as server:
            for text in commands:
                program, *words = shlex.split(text)
                if words[0] == "serve":
                    continue
                load = ["--target", server.target] if program == "holdfast-load" else []
                done = subprocess.run(
                    [generator if load else binary, *words, *load], cwd=tmp_path, capture_output=True, text=True,
                    timeout=120, stdin=subprocess.DEVNULL, env={**os.environ, "HOLDFAST_TARGET": server.target})
                if done.returncode == 1 and "INSUFFICIENT_STOCK" in done.stderr:
                    refused_lines.append(text)
                else:
                    assert done.returncode == 0, f"{text}: {done.stdout}{done.stderr}"
    # The last one, and nothing else.
    assert refused_lines == ["holdfast reservation reserve ticket=1 --reference order-126"]


def test_tls_and_tokens(binary, tmp_path):
    """docs/SECURITY.md: the way from nothing to a server with both."""
    (block,) = [block for page, block in COMMANDS if page == "docs/SECURITY.md" and block.startswith("openssl req")]
    certify, create, serve = lines(block)
    subprocess.run(shlex.split(certify), cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run([binary, *shlex.split(create)[1:]], cwd=tmp_path, check=True, capture_output=True, text=True)
    flags = [tmp_path / word if "." in word or word == "tokens" else word for word in shlex.split(serve)[2:]]
    with Server(binary, *flags) as server:
        credentials = grpc.ssl_channel_credentials((tmp_path / "server.pem").read_bytes())
        target = f"localhost:{server.port}"
        with Client(target, credentials=credentials, token=done.stdout.strip()) as client:
            with refused(grpc.StatusCode.NOT_FOUND):
                client.level("nothing")
        with Client(target, credentials=credentials) as client:
            with refused(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING"):
                client.level("nothing")


def test_the_table_of_roles(binary, tmp_path):
    """docs/SECURITY.md: every method of the API is in it, and refused to the role before its own alone."""
    table = dict(re.findall(r"^\| `?(none|read|reserve|stock|admin)`? \| (.*) \|$", TEXT["docs/SECURITY.md"], re.MULTILINE))
    roles = list(table)
    assert roles == ["none", "read", "reserve", "stock", "admin"]
    least = {name: role for role in roles for name in re.findall(r"`([\w/]+)`", table[role])}
    services = [service for module in (reservation_pb2, stock_pb2, event_pb2, backup_pb2)
                for service in module.DESCRIPTOR.services_by_name.values()]
    methods = {f"{service.name}/{method.name}": f"/{service.full_name}/{method.name}"
               for service in services for method in service.methods}
    methods |= {f"Health/{name}": f"/grpc.health.v1.Health/{name}" for name in ("Check", "Watch")}
    named = {name if name in methods else next(full for full in methods if full.endswith("/" + name)): role
             for name, role in least.items()}
    assert named.keys() == methods.keys()
    tokens = {role: holdfast(binary, "token", "create", "--caller", role, "--role", role, "--file",
                             tmp_path / "tokens").stdout.strip() for role in roles[1:]}
    with Server(binary, "--tokens", tmp_path / "tokens") as server, grpc.insecure_channel(server.target) as channel:
        for name, role in named.items():
            for given in roles:
                metadata = [("authorization", f"Bearer {tokens[given]}")] if given in tokens else []
                call = channel.unary_stream(methods[name])(b"", metadata=metadata, timeout=20)
                code = None
                try:
                    next(call, None)
                except grpc.RpcError as error:
                    code = error.code()
                call.cancel()
                assert code != grpc.StatusCode.DEADLINE_EXCEEDED, (name, given)
                is_refused = code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
                assert is_refused == (roles.index(given) < roles.index(role)), (name, given)


OPERATIONS = [line for page, block in COMMANDS if page == "docs/OPERATIONS.md" for line in lines(block)]


def test_operations(binary, tmp_path):
    """What the page says to do, in its order, on a directory that a server works with."""
    names = {name: tmp_path / name.lower() for name in ("DATA", "BACKUP", "ARCHIVE", "NEW")}
    with Server(binary, "--archive", names["ARCHIVE"], data=names["DATA"]) as server, Client(server.target) as client:
        sku = client.item(10)
    lsn = re.search(r"up to (\d+)", holdfast(binary, "verify", names["DATA"]).stderr)[1]
    moment = None
    for text in OPERATIONS:
        words = [str(names.get(word, word)) for word in shlex.split(text)[1:]]
        words = [lsn if word == "LSN" else moment if word.endswith("Z") else word for word in words]
        if words[0] == "serve":
            data = words.index("--data-dir")
            with Server(binary, *words[1:data], *words[data + 2:], data=words[data + 1]) as server:
                with Client(server.target) as client:
                    assert client.level(sku).on_hand == 10, text
            continue
        if words[0] == "restore":
            shutil.rmtree(names["NEW"], ignore_errors=True)
        if "HOST:PORT" in words:
            shutil.rmtree(names["BACKUP"])
            with Server(binary, data=names["DATA"]) as server:
                done = holdfast(binary, *[server.target if word == "HOST:PORT" else word for word in words])
        else:
            done = holdfast(binary, *words)
        assert done.returncode == 0, f"{text}: {done.stderr}"
        if words[0] == "backup":
            moment = done.stdout.split()[2]
        if words[0] in ("backup", "restore"):
            lsn = done.stdout.split()[1]
        if words[0] == "verify":
            lsn = re.search(r"up to (\d+)", done.stderr)[1]


class Servers:
    """Those that docs/HIGH-AVAILABILITY.md starts, by their directories; a standby is no server to wait for."""

    def __init__(self, binary, environment):
        self.binary, self.environment, self.running = binary, environment, {}

    def start(self, data, *flags):
        errors = open(data.with_suffix(".log"), "w+")
        self.running[data] = subprocess.Popen(
            serve_command(self.binary, data, *flags), env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=errors, text=True)

    def wait_for_owner(self, data):
        """Until that one answers calls. Where."""
        for text in self.running[data].stdout:
            if text.startswith("holdfast ready:"):
                return text.split()[3]
        raise AssertionError(data.with_suffix(".log").read_text())

    def stop(self, data):
        process = self.running.pop(data)
        process.terminate()
        return process.wait(STOP_SECONDS)

    def stop_all(self):
        for data in list(self.running):
            self.stop(data)


@pytest.fixture
def stock_engine():
    """An engine in which the SQL of docs/HIGH-AVAILABILITY.md was run, and both roles have a password."""
    if not engines.is_installed():
        pytest.skip("PostgreSQL's server is not installed")
    with engines.Engine() as engine:
        (statements,) = re.findall(r"^```sql\n(.*?)^```", TEXT["docs/HIGH-AVAILABILITY.md"], re.MULTILINE | re.DOTALL)
        # The password of every role of this engine is the same, as PGPASSFILE says.
        word = pathlib.Path(engine.environment["PGPASSFILE"]).read_text().strip().split(":")[-1]
        statements += "".join(f"alter role {role} password '{word}';" for role in ("stock_admin", "stock_server"))
        for statement in statements.split(";"):
            subprocess.run(["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", engine.url + "?target_session_attrs=read-write",
                            "-c", statement], check=True, env={**os.environ, **engine.environment}, timeout=60)
        yield engine


HIGH_AVAILABILITY = [line for page, block in COMMANDS if page == "docs/HIGH-AVAILABILITY.md" for line in lines(block)]


def test_high_availability(binary, stock_engine, tmp_path):
    """What the page says to do, in its order, with a directory that had a server before."""
    a, b = tmp_path / "A", tmp_path / "B"
    hosts = re.search(r"@(.*)/", stock_engine.url)[1]
    with Server(binary, data=a) as server, Client(server.target) as client:
        sku = client.item(10)
    servers = Servers(binary, stock_engine.environment)

    def run(*words):
        done = subprocess.run([binary, *words], capture_output=True, text=True, timeout=60,
                              env={**os.environ, **stock_engine.environment})
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def level(target):
        with Client(target) as client:
            return client.level(sku).on_hand

    try:
        for text in HIGH_AVAILABILITY:
            words = [word.replace("db1,db2,db3", hosts).replace("?sslmode=verify-full", "") for word in shlex.split(text)][1:]
            if text.startswith("rm "):
                # Here B was the last owner.
                words = [word.replace("A/", "B/") for word in words]
                assert servers.stop(b) == 0
                assert "copy of a log" in holdfast(binary, "serve", "--data-dir", b).stderr
                (tmp_path / words[0]).unlink()
            elif words[0] == "serve":
                data = words.index("--data-dir")
                folder = b if "fsync" in words else tmp_path / words[data + 1]
                servers.start(folder, *words[1:data], *words[data + 2:])
                if folder == a or "fsync" in words:
                    assert level(servers.wait_for_owner(folder)) == 10, text
            elif words[0] == "handover":
                eventually(lambda: "standby" in run("engine", "status", *words[1:]), 30)
                assert "handed over" in run(*words)
                assert servers.running.pop(a).wait(STOP_SECONDS) == 75
                assert level(servers.wait_for_owner(b)) == 10
            else:
                assert run(*words), text
    finally:
        servers.stop_all()


def test_the_metrics_that_are_told_of_are_there(binary, stock_engine, tmp_path):
    """Those of the page on high availability and of its rules, but for what another program has."""
    pages = TEXT["docs/HIGH-AVAILABILITY.md"] + (REPOSITORY / "deploy/prometheus/holdfast-ha.rules.yml").read_text()
    told = {re.sub("_bucket$", "", name) for name in re.findall(r"\bholdfast_(?:engine|standby)_\w+", pages)}
    environment = stock_engine.environment
    done = subprocess.run([binary, "engine", "init", "--engine", stock_engine.url], env={**os.environ, **environment})
    assert done.returncode == 0
    with Server(binary, "--durability", "quorum", "--engine", stock_engine.url, data=tmp_path / "data",
                environment=environment) as server:
        with Client(server.target) as client:
            client.item(1)
        address = f"http://127.0.0.1:{server.admin_port}/metrics"
        page = urllib.request.urlopen(address, timeout=10).read().decode()
    types = set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE))
    assert told - types == set() and len(told) > 10
    assert {name for name in types if name.startswith(("holdfast_engine_", "holdfast_standby_"))} - told == set()
    values = dict(re.findall(r"^(holdfast_engine_\w+) (\S+)$", page, re.MULTILINE))
    assert values["holdfast_engine_owner"] == values["holdfast_engine_takeovers_total"] == "1"
    assert float(values["holdfast_engine_bytes_total"]) > 0 and float(values["holdfast_engine_append_seconds_count"]) > 0
    assert 0 < float(values["holdfast_engine_lease_seconds"]) <= 2
    assert abs(float(values["holdfast_engine_lease_seconds"]) + float(values["holdfast_engine_lease_age_seconds"]) - 2) < 0.01
    if shutil.which("promtool"):
        done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr


def test_the_console_as_json(binary, tmp_path):
    """Both commands of docs/CONSOLE.md, against a server with tokens and one without."""
    (plain,), (bearer,) = [lines(block) for page, block in COMMANDS if page == "docs/CONSOLE.md"]
    tokens = tmp_path / "tokens"
    token = holdfast(binary, "token", "create", "--role", "admin", "--caller", "ops", "--file", tokens).stdout.strip()
    with Server(binary) as open_server, Server(binary, "--tokens", tokens) as guarded:
        for command, server in ((plain, open_server), (bearer, guarded)):
            done = subprocess.run(["bash", "-euc", command.replace("127.0.0.1:7421", server.admin)], text=True,
                                  env={**os.environ, "TOKEN": token}, capture_output=True, timeout=60)
            assert "held" in json.loads(done.stdout)["rates"]


def test_every_command_is_run_or_has_a_reason_why_not():
    for page, block in COMMANDS:
        if page in RUN_BY_OTHERS or "grpc_tools.protoc" in block or block.startswith(("holdfast stock", "openssl req")):
            continue
        for line in lines(block):
            assert line.startswith(tuple(NOT_RUN)), f"{page}: nothing runs {line!r}"


@pytest.mark.parametrize("page", PAGES)
def test_every_target_it_names_exists(page):
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", TEXT[page], re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_flags_of_the_measuring_tools_exist():
    help_text = subprocess.run([sys.executable, REPOSITORY / "tools/bench/ratio.py", "--help"],
                               capture_output=True, text=True, check=True).stdout
    for _, block in COMMANDS:
        for line in lines(block):
            if line.startswith("tools/bench/ratio.py"):
                for flag in re.findall(r"--[a-z-]+", line):
                    assert flag in help_text, flag


def test_the_flags_it_gives_to_the_programs_exist(binary, generator):
    helps = {name: holdfast(*command, "--help").stdout for name, command in {
        "make serve": (binary, "serve"), "make load": (generator, "run"),
        "holdfast-load compare": (generator, "compare")}.items()}
    seen = 0
    for text in TEXT.values():
        for name, arguments in re.findall(r"(make serve|make load) ARGS='([^']*)'", text) + re.findall(
                r"^(holdfast-load compare) (.*(?:\\\n.*)*)", text, re.MULTILINE):
            for flag in re.findall(r"(?<!\S)--[a-z-]+", re.sub(r"'[^']* serve [^']*'", "", arguments)):
                assert flag in helps[name], f"{name}: {flag}"
                seen += 1
    assert seen > 4


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT[page]):
        if not target.startswith(("http://", "https://")):
            path = (REPOSITORY / page).parent / target.split("#")[0]
            assert path.exists(), f"{page}: {target}"


def test_the_byte_tables_are_those_of_the_code():
    done = subprocess.run([sys.executable, REPOSITORY / "scripts/format-page.py", "--check"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_comment_cites_a_page_that_is_not_there():
    tracked = subprocess.run(["git", "ls-files", "*.swift", "*.c", "*.h", "*.py", "*.sh", "*.proto", "*.md"],
                             cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()
    for path in tracked:
        for cited in re.findall(r"\bdocs/[A-Z]+\.md\b", (REPOSITORY / path).read_text()):
            assert (REPOSITORY / cited).exists(), f"{path} cites {cited}"
