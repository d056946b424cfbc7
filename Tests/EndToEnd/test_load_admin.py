"""--admin at something that is no holdfast admin page ends a run before any load, whatever answers there."""

import contextlib
import http.server
import socket
import subprocess
import threading
import time
import urllib.request

import pytest

from server import eventually


def run(generator, *arguments):
    return subprocess.run([generator, *map(str, arguments)], capture_output=True, text=True, timeout=120)


@contextlib.contextmanager
def web_server(status, body):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextlib.contextmanager
def raw_server(answer):
    """Takes connections, and sends `answer` to each: None is nothing at all, and the connection stays."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peers = []

        def accept():
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                peers.append(peer)
                if answer is not None:
                    with contextlib.suppress(OSError):
                        peer.recv(65536)
                        peer.sendall(answer)
                        peer.shutdown(socket.SHUT_WR)

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        for peer in peers:
            peer.close()


@contextlib.contextmanager
def nobody():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    yield port


WRONG = {
    "a page of something else": (lambda: web_server(200, b"<html>it works</html>"), "no holdfast_build_info"),
    "another program's metrics": (lambda: web_server(200, b"go_goroutines 7\n"), "no holdfast_build_info"),
    "not found": (lambda: web_server(404, b"holdfast_build_info 1\n"), "status 404"),
    "an error": (lambda: web_server(500, b"holdfast_build_info 1\n"), "status 500"),
    "garbage": (lambda: raw_server(bytes(range(256)) * 8), "no HTTP/1.1 server"),
    "nothing said": (lambda: raw_server(b""), "no HTTP/1.1 server"),
    "it hangs": (lambda: raw_server(None), "no whole answer within 5 s"),
    "it is gone": (nobody, "Connection refused"),
}


def calls(server):
    """Calls that the server has counted."""
    page = urllib.request.urlopen(f"http://127.0.0.1:{server.admin_port}/metrics", timeout=10).read().decode()
    return [line for line in page.splitlines()
            if line.startswith("grpc_server_") and "_total" in line or line.startswith("rpc_server_")
            and "_count" in line]


def is_refused(done, port, words):
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"127.0.0.1:{port} (--admin)" in done.stdout + done.stderr
    assert words in done.stdout + done.stderr


@pytest.mark.parametrize("what", WRONG)
def test_a_run_is_not_begun(generator, server, tmp_path, what):
    make, words = WRONG[what]
    before = calls(server)
    with make() as port:
        began = time.monotonic()
        done = run(generator, "run", "--target", server.target, "--admin", f"127.0.0.1:{port}", "--operations", 50,
                   "--json", tmp_path / "report.json")
    is_refused(done, port, words)
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1 and time.monotonic() - began < 20
    assert calls(server) == before and list(tmp_path.iterdir()) == []


def test_the_grpc_port_is_no_admin_page(generator, server):
    is_refused(run(generator, "run", "--target", server.target, "--admin", server.target, "--operations", 50),
               server.port, "answered with status 505")


def test_a_search_is_not_begun(generator, server):
    with web_server(200, b"hello") as port:
        done = run(generator, "find-knee", "--target", server.target, "--admin", f"127.0.0.1:{port}",
                   "--require", "p99<5ms")
    is_refused(done, port, "no holdfast_build_info")


def test_a_comparison_is_not_made(generator, binary, tmp_path):
    """A server whose {admin} port something else has."""
    serve = f"'{binary}' serve --port {{port}} --admin-port 0 --data-dir {{data}} --durability memory"
    other = f"sh -c \"python3 -m http.server --bind 127.0.0.1 {{admin}} >/dev/null 2>&1 & exec {serve}\""
    done = run(generator, "compare", "--folder", tmp_path, "--duration", 0.2, "--server", f"one={other}",
               "--server", f"two={other}")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "(--admin): GET /metrics was answered with status 404" in done.stderr


def test_a_page_that_goes_away_is_told(generator, start):
    """A page that was right, and is gone at the end: what was counted by then is not all."""
    server = start("--durability", "memory")
    page = urllib.request.urlopen(f"http://127.0.0.1:{server.admin_port}/metrics", timeout=10).read()
    before = calls(server)
    with web_server(200, page) as port:
        process = subprocess.Popen(
            [generator, "run", "--target", server.target, "--admin", f"127.0.0.1:{port}", "--duration", "3",
             "--rate", "50", "--warm-up", "0"], stdout=subprocess.PIPE, text=True)
        eventually(lambda: calls(server) != before, 30)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert "the server's figures end before the run does" in " ".join(out.split())
