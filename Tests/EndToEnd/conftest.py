"""Fixtures of the end-to-end tests: a real server process, and clients that speak gRPC to it.

HOLDFAST_BINARY names the server to test; default .build/debug/holdfast, which `make test` has built.
"""

import importlib.resources
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import time

import pytest
from grpc_tools import protoc

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
GENERATED = tempfile.TemporaryDirectory(prefix="holdfast-stubs-")


def generate_stubs():
    """Makes holdfast.v1's Python modules from proto/ and puts them on the path: as a client does."""
    well_known_types = importlib.resources.files("grpc_tools") / "_proto"
    protos = sorted((REPOSITORY / "proto" / "holdfast").rglob("*.proto"))
    status = protoc.main(
        ["protoc", f"-I{REPOSITORY / 'proto'}", f"-I{well_known_types}",
         f"--python_out={GENERATED.name}", f"--grpc_python_out={GENERATED.name}", *map(str, protos)])
    if status != 0:
        raise RuntimeError(f"protoc failed with status {status}")
    sys.path.insert(0, GENERATED.name)


generate_stubs()

from certificates import Certificates  # noqa: E402
from client import Client  # noqa: E402  the generated modules must be there first
from command_line import Command  # noqa: E402
from server import Server, holdfast  # noqa: E402


# Files that take longest, begun first so that no worker is left with one at the end: each is one worker's.
LONGEST_FIRST = ("test_backup", "test_report", "test_process", "test_directory", "test_compare", "test_one_client", "test_command_line",
                 "test_power_cuts", "test_crash_engine", "test_watch_consumers", "test_strategies", "test_load_api", "test_verdict",
                 "test_load_agents", "test_load_live", "test_benchmarking", "test_load_signs",
                 "test_relay", "test_engine", "test_crash", "test_load_unsent", "test_clock", "test_batch", "test_watch",
                 "test_load_watch", "test_kafka_intake", "test_kafka_relay", "test_load_schemas", "test_damage", "test_load_tls",
                 "test_tls", "test_durability",
                 "test_hostile", "test_admin_hostile")


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def binary():
    path = pathlib.Path(os.environ.get("HOLDFAST_BINARY", REPOSITORY / ".build/debug/holdfast"))
    assert path.exists(), f"{path} is missing; run `swift build` first"
    return path


@pytest.fixture(scope="session")
def generator():
    path = pathlib.Path(os.environ.get("HOLDFAST_LOAD_BINARY", REPOSITORY / ".build/debug/holdfast-load"))
    assert path.exists(), f"{path} is missing: run `make test-swift` first"
    return path


@pytest.fixture(scope="session")
def server(binary):
    """One server for all tests that need no flags of their own; every test makes its own SKUs."""
    with Server(binary) as running:
        yield running


@pytest.fixture
def client(server):
    with Client(server.target) as connected:
        yield connected


@pytest.fixture
def cli(binary, server):
    """cli("stock", "get", "a") is the command's end, against the common server."""
    return Command(binary, server.target)


@pytest.fixture
def start(binary):
    """start("--flag", "value") is a server of the test's own, stopped when the test ends."""
    servers = []

    def start_server(*flags, **options):
        servers.append(Server(binary, *flags, **options))
        return servers[-1]

    yield start_server
    # The newest first: it may run on the directory of one before, which goes with that.
    for running in reversed(servers):
        running.stop()


class WallClock:
    """The wall clock of the processes that are started with its `environment`: another than the machine's."""

    def __init__(self, library, path):
        self.path = path
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK_FILE": str(path)}
        self.shift()

    def shift(self, seconds=0, asleep=0):
        """Moves the wall clock by that much, as if the machine had slept for some of it."""
        if not self.path.exists():
            self.path.write_bytes(bytes(16))
        # In place: the processes have it mapped.
        with open(self.path, "r+b") as file:
            file.write(struct.pack("=qq", seconds, asleep))

    def set(self, seconds):
        """Sets it to that many seconds since the Unix epoch."""
        self.shift(seconds - int(time.time()))


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """An authority that the test's servers and clients trust."""
    return Certificates(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Another authority, which nobody trusts."""
    return Certificates(tmp_path_factory.mktemp("theirs"), "Some other authority")


@pytest.fixture(scope="module")
def pair(ours):
    """A server's certificate and key."""
    return ours.issue("server")


@pytest.fixture(scope="module")
def secured(binary, ours, pair, tmp_path_factory):
    """A server with TLS and tokens, and a token of each role."""
    folder = tmp_path_factory.mktemp("secured")
    tokens = {}
    for role in ("read", "reserve", "stock", "admin"):
        done = holdfast(binary, "token", "create", "--caller", role, "--role", role, "--file", folder / "tokens")
        tokens[role] = done.stdout.split()[0]
    with Server(binary, "--tls-cert", pair.certificate, "--tls-key", pair.key, "--tokens", folder / "tokens") as server:
        server.tokens, server.folder = tokens, folder
        yield server


@pytest.fixture(scope="session")
def wall_clock_library(tmp_path_factory):
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    library = tmp_path_factory.mktemp("clock") / "wall_clock.so"
    source = pathlib.Path(__file__).with_name("wall_clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def wall_clock(wall_clock_library, tmp_path):
    return WallClock(wall_clock_library, tmp_path / "wall-clock")
