"""The metrics page of a server in every mode that there is, for tests of what is told of metrics."""

import contextlib
import os
import subprocess
import tempfile
import urllib.request

import engines
from server import Server

# As Prometheus 2.42 says it.
ACCEPT = ("application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
          "text/plain;version=0.0.4;q=0.5,*/*;q=0.1")


def fetch(admin, accept=None, token=None):
    """(content type, text) of the metrics page at that address."""
    headers = {} if accept is None else {"Accept": accept}
    request = urllib.request.Request(f"http://{admin}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.headers["Content-Type"], response.read().decode()


def pages_of(admin):
    """Its page as plain text and as OpenMetrics."""
    return fetch(admin)[1], fetch(admin, ACCEPT)[1]


def collect(binary, certificate, client):
    """{mode: (text, OpenMetrics)}; `client(server)` makes some calls of each server that serves."""
    pages = {}
    with Server(binary, "--durability", "memory") as server, tempfile.TemporaryDirectory() as folder:
        client(server)
        pages["memory"] = pages_of(server.admin)
        # Its broker is away: what it shows is the same.
        with subprocess.Popen([binary, "relay", "--target", server.target, "--broker", "amqp://127.0.0.1:1", "--resume-file",
                               f"{folder}/token", "--admin-port", "0", "--shutdown-timeout", "0s"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True) as relay:
            pages["relay"] = pages_of(relay.stdout.readline().split("admin http://")[1].split()[0])
            relay.terminate()
        with subprocess.Popen([binary, "intake", "--target", server.target, "--broker", "amqp://127.0.0.1:1", "--admin-port", "0"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as intake:
            pages["intake"] = pages_of(intake.stdout.readline().split("admin http://")[1].split()[0])
            intake.terminate()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([binary, "token", "create", "--caller", "shop", "--role", "stock", "--file", f"{folder}/tokens"],
                       check=True, capture_output=True)
        with Server(binary, "--archive", f"{folder}/archive", "--tokens", f"{folder}/tokens", "--tls-cert",
                    certificate.certificate, "--tls-key", certificate.key) as server:
            pages["fsync, archive, TLS, tokens"] = pages_of(server.admin)
    if engines.is_installed():
        with engines.Engine() as engine:
            engine.make_tables(binary)
            pages |= collect_of_engine(binary, engine, client)
    return pages


def collect_of_engine(binary, engine, client):
    pages = {}
    flags = ("--durability", "quorum", "--engine", engine.url)
    with contextlib.ExitStack() as stack:
        owner = stack.enter_context(Server(binary, *flags, environment=engine.environment))
        client(owner)
        pages["quorum, owner"] = pages_of(owner.admin)
        for name, more in (("standby", ()), ("standby that forwards", ("--forward",))):
            with Server(binary, *flags, "--standby", *more, environment=engine.environment) as standby:
                pages[name] = pages_of(standby.admin)
        process = stack.enter_context(subprocess.Popen(
            [binary, "project", "--target", owner.target, "--database", engine.url, "--schema", "tables", "--admin-port", "0"],
            env={**os.environ, **engine.environment}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True))
        stack.callback(process.terminate)
        address = process.stdout.readline().split("admin http://")[1].split()[0]
        pages["project"] = pages_of(address)
    return pages
