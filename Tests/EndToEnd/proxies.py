"""nginx, HAProxy and Envoy in front of the server: each with a configuration of its own, on a free loopback port.

The listening socket is made here and handed down (nginx, HAProxy), or the proxy says which port it got
(Envoy). Nothing is looked up by name when a proxy is stopped: the process is ours.
"""

import json
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile
import urllib.request

from conftest import REPOSITORY
from server import eventually

STOP_SECONDS = 10
# More than any client here sends in one request.
HEADER_BYTES = 96 * 1024
# Longer than a silent Watch of these tests.
STREAM_SECONDS = 120


class TLS:
    """Both sides of the proxy: files in PEM, and the name that the server's certificate has."""

    def __init__(self, authority, certificate, key, name="localhost"):
        self.authority, self.certificate, self.key, self.name = map(str, (authority, certificate, key, name))


class Proxy:
    """One proxy process in front of `servers`; `tls` is used towards the clients and towards the servers."""

    name = ""
    # Whether the calls of many clients share one connection to the server.
    shares_connection = True

    def __init__(self, servers, tls=None):
        self.servers, self.tls = servers, tls
        self.folder = tempfile.TemporaryDirectory(prefix=f"holdfast-{self.name}-")
        self.path = pathlib.Path(self.folder.name)
        self.log = open(self.path / "log", "w+")
        self.host = "127.0.0.1"
        self.process = None
        self.start()
        self.target = f"{self.host}:{self.port}"

    @classmethod
    def executable(cls):
        """The path of the program, or None where it is not installed."""
        return shutil.which(cls.name, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")

    def start(self):
        # The kernel chooses the port, and the socket is never closed in between.
        with socket.create_server((self.host, 0), backlog=1024) as listener:
            listener.setblocking(False)
            self.port = listener.getsockname()[1]
            self.run(self.command(listener.fileno()), listener.fileno())

    def run(self, command, listener=None):
        self.process = subprocess.Popen(
            [self.executable(), *command], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            pass_fds=[] if listener is None else [listener], env={**os.environ, **self.environment(listener)})

    def environment(self, listener):
        return {}

    def command(self, listener):
        raise NotImplementedError

    def write(self, name, text):
        path = self.path / name
        path.write_text(text)
        return str(path)

    def log_text(self):
        return (self.path / "log").read_text(errors="replace")

    def is_alive(self):
        return self.process.poll() is None

    def stop(self):
        if self.process and self.is_alive():
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        self.folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Nginx(Proxy):
    """It takes a connection to the server for each call at a time, and keeps them for later calls."""

    name = "nginx"
    shares_connection = False

    def environment(self, listener):
        return {"NGINX": f"{listener};"}

    def command(self, listener):
        servers = "".join(f"server {server.host}:{server.port} max_fails=0; " for server in self.servers)
        downstream = upstream = ""
        if self.tls:
            downstream = f"ssl_certificate {self.tls.certificate}; ssl_certificate_key {self.tls.key};"
            upstream = (f"grpc_ssl_trusted_certificate {self.tls.authority}; grpc_ssl_verify on; "
                        f"grpc_ssl_name {self.tls.name}; grpc_ssl_server_name on;")
        temporary = "".join(f"{name}_temp_path {self.path}/{name}; "
                            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        configuration = self.write("nginx.conf", f"""
            daemon off; worker_processes 1; user {pwd.getpwuid(os.geteuid()).pw_name}; pid {self.path}/pid; error_log stderr warn;
            worker_rlimit_nofile 4096;
            events {{ worker_connections 2048; }}
            http {{
              access_log off; {temporary}
              upstream holdfast {{ {servers} keepalive 64; }}
              server {{
                listen {self.host}:{self.port} http2{' ssl' if self.tls else ''};
                {downstream}
                large_client_header_buffers 8 {HEADER_BYTES};
                client_max_body_size 0;
                keepalive_requests 1000000;
                location / {{
                  grpc_pass {'grpcs' if self.tls else 'grpc'}://holdfast; {upstream}
                  grpc_buffer_size 16k;
                  grpc_read_timeout {STREAM_SECONDS}s; grpc_send_timeout {STREAM_SECONDS}s;
                  client_body_timeout {STREAM_SECONDS}s; send_timeout {STREAM_SECONDS}s;
                  grpc_next_upstream error timeout http_502 http_503 non_idempotent;
                }}
              }}
            }}
            """)
        return ["-p", str(self.path), "-e", "stderr", "-c", configuration]


class HAProxy(Proxy):
    """With http-reuse, calls of all clients share connections to the server."""

    name = "haproxy"
    # Of its connections to the servers.
    options = ""

    def command(self, listener):
        downstream = upstream = ""
        if self.tls:
            both = self.write("both.pem", pathlib.Path(self.tls.certificate).read_text()
                              + pathlib.Path(self.tls.key).read_text())
            downstream = f" ssl crt {both} alpn h2"
            upstream = f" ssl verify required ca-file {self.tls.authority} sni str({self.tls.name}) alpn h2"
        else:
            downstream = upstream = " proto h2"
        servers = "".join(
            f"  server holdfast{number} {server.host}:{server.port}{upstream}{self.options}\n"
            for number, server in enumerate(self.servers))
        configuration = self.write("haproxy.cfg", f"""
global
  nbthread 1
  log stderr format raw local0 warning
  tune.bufsize {2 * HEADER_BYTES}
  ssl-server-verify none
defaults
  mode http
  log global
  timeout connect 5s
  timeout client {STREAM_SECONDS}s
  timeout server {STREAM_SECONDS}s
  option redispatch 1
  retries 3
  retry-on conn-failure empty-response response-timeout 0rtt-rejected
frontend clients
  bind fd@{listener}{downstream}
  default_backend servers
backend servers
  http-reuse always
{servers}""")
        return ["-db", "-f", configuration]


class AnnouncingHAProxy(HAProxy):
    """It says by the PROXY protocol whose a connection is, and so each client has its own."""

    shares_connection = False
    options = " send-proxy-v2"


class Envoy(Proxy):
    """One worker, so that all clients' calls go over one connection to each server."""

    name = "envoy"

    @classmethod
    def executable(cls):
        if path := os.environ.get("ENVOY") or super().executable():
            return path
        installed = REPOSITORY.glob(".venv-proxies/lib/python3*/site-packages/envoy/_bin/envoy")
        return next((str(path) for path in installed), None)

    def start(self):
        address = self.path / "admin"
        self.run(["--config-path", self.write("envoy.json", json.dumps(self.configuration())),
                  "--admin-address-path", str(address), "--disable-hot-restart", "--concurrency", "1",
                  "--log-level", "warning"])

        def is_ready():
            assert self.is_alive(), self.log_text()
            return address.exists() and address.read_text().strip()

        self.admin = eventually(is_ready, 20)
        listeners = json.loads(eventually(lambda: self.fetch("/listeners?format=json"), 20))
        self.port = listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"]
        eventually(lambda: self.fetch("/ready").strip() == "LIVE", 20)

    def fetch(self, path):
        try:
            return urllib.request.urlopen(f"http://{self.admin}{path}", timeout=5).read().decode()
        except OSError:
            return ""

    def stats(self, name):
        """A counter or gauge of the cluster."""
        for row in self.fetch("/stats?filter=cluster.holdfast").splitlines():
            key, _, value = row.partition(": ")
            if key == f"cluster.holdfast.{name}":
                return int(value)
        raise KeyError(name)

    def configuration(self):
        def address(port, host=self.host):
            return {"socket_address": {"address": host, "port_value": port}}

        api = "type.googleapis.com/envoy.extensions"
        router = {"name": "router", "typed_config": {
            "@type": f"{api}.filters.http.router.v3.Router", "suppress_envoy_headers": True}}
        route = {
            "match": {"prefix": "/"},
            "route": {"cluster": "holdfast", "timeout": "0s", "retry_policy": {
                "retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 3,
                "host_selection_retry_max_attempts": 3,
                "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {
                    "@type": f"{api}.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}]}}}
        manager = {
            "@type": f"{api}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "clients", "codec_type": "HTTP2", "http_filters": [router],
            "stream_idle_timeout": f"{STREAM_SECONDS}s", "max_request_headers_kb": HEADER_BYTES // 1024,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}}
        chain = {"filters": [{"name": "manager", "typed_config": manager}]}
        http2 = {"connection_keepalive": {"interval": "1s", "timeout": "5s"}}
        cluster = {
            "name": "holdfast", "type": "STATIC", "connect_timeout": "5s",
            # By default Envoy makes three retries at a time.
            "circuit_breakers": {"thresholds": [{"max_retries": 1000}]},
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": f"{api}.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": http2}}},
            "load_assignment": {"cluster_name": "holdfast", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": address(server.port, server.host)}} for server in self.servers]}]}}
        if self.tls:
            def file(name):
                return {"filename": name}

            certificates = [{"certificate_chain": file(self.tls.certificate), "private_key": file(self.tls.key)}]
            chain["transport_socket"] = {"name": "tls", "typed_config": {
                "@type": f"{api}.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {"tls_certificates": certificates, "alpn_protocols": ["h2"]}}}
            cluster["transport_socket"] = {"name": "tls", "typed_config": {
                "@type": f"{api}.transport_sockets.tls.v3.UpstreamTlsContext", "sni": self.tls.name,
                "common_tls_context": {
                    "validation_context": {"trusted_ca": file(self.tls.authority)}, "alpn_protocols": ["h2"]}}}
        return {
            "admin": {"address": address(0)},
            "static_resources": {
                "listeners": [{"name": "clients", "address": address(0), "filter_chains": [chain]}],
                "clusters": [cluster]}}


PROXIES = [Nginx, HAProxy, Envoy]
