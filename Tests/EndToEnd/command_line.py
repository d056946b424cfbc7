"""How the tests run holdfast's commands as people do: in a pipe, at a terminal, through a network that fails."""

import concurrent.futures
import dataclasses
import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

SECONDS = 60
# What a developer has set says nothing about the tests.
CLEAN = {name: value for name, value in os.environ.items()
         if not name.startswith("HOLDFAST_") and name not in ("NO_COLOR", "COLUMNS")}


@dataclasses.dataclass
class Done:
    status: int
    out: str
    err: str

    @property
    def objects(self):
        """Of --json."""
        return [json.loads(text) for text in self.out.splitlines()]

    @property
    def error(self):
        """Of --json, where it failed."""
        return json.loads(self.err.splitlines()[-1])["error"]

    @property
    def rows(self):
        """The fields of plain output, without the names of the columns."""
        return [text.split("\t") for text in self.out.splitlines()[1:]]


class Command:
    """`holdfast` with an environment of its own: cli("stock", "get", "a") runs it to its end."""

    def __init__(self, binary, target=None, **environment):
        self.binary = binary
        self.environment = {**CLEAN, **environment}
        if target:
            self.environment["HOLDFAST_TARGET"] = target

    def __call__(self, *arguments, status=0, stdin=subprocess.DEVNULL, **more):
        done = subprocess.run([self.binary, *map(str, arguments)], stdin=stdin, capture_output=True, timeout=SECONDS,
                              env={**self.environment, **more})
        result = Done(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert result.status == status, f"{arguments}: {result}"
        return result

    def start(self, *arguments, **options):
        """Begins it; its output is read by `Lines`."""
        return subprocess.Popen([self.binary, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, env=self.environment, **options)

    def at_terminal(self, *arguments, answers="", columns=120, status=0, **more):
        """Runs it at a terminal, where a person types `answers`. All that is to be seen there."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        process = subprocess.Popen([self.binary, *map(str, arguments)], stdin=slave, stdout=slave, stderr=slave,
                                   start_new_session=True, env={**self.environment, "TERM": "xterm", **more})
        os.close(slave)
        os.write(master, answers.encode())
        seen, deadline = b"", time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if select.select([master], [], [], 1)[0]:
                try:
                    seen += os.read(master, 65536)
                except OSError:  # the other side is closed
                    break
        os.close(master)
        assert process.wait(SECONDS) == status, seen
        return seen.decode()


class Lines:
    """The lines of a process, as they come."""

    def __init__(self, stream):
        self.stream, self.lines = stream, []
        self.changed = threading.Condition()
        self.has_ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.stream:
            with self.changed:
                self.lines.append(line.rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self.has_ended = True
            self.changed.notify_all()

    def all(self):
        """What there was, once the stream has ended."""
        return self.wait(lambda _: self.has_ended)

    def wait(self, condition, seconds=SECONDS):
        """Until condition(lines) holds."""
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self.lines) or self.has_ended, seconds), self.lines[-3:]
            assert condition(self.lines), self.lines[-3:]
            return list(self.lines)


class Proxy:
    """A network between a command and a server, which loses and delays what it is told to.

    `upstream`: where connections lead, HOST:PORT. `answers`: whether all that the server says comes through; else only what
    it begins with. `hold_after`: so many bytes of a command come through, and the rest waits for `release`.
    """

    def __init__(self, upstream, answers=True, hold_after=None):
        self.upstream, self.answers, self.hold_after = upstream, answers, hold_after
        self.released = threading.Event()
        self.is_held = threading.Event()
        self.connections = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.target = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            host, port = self.upstream.split(":")
            try:
                server = socket.create_connection((host, int(port)))
            except OSError:
                client.close()
                continue
            self.connections.append((client, server))
            answers = self.answers
            threading.Thread(target=self._pump, args=(client, server, True, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False, answers), daemon=True).start()

    def _pump(self, source, goal, is_request, passes):
        moved = 0
        try:
            while data := source.recv(4096):
                moved += len(data)
                if is_request and self.hold_after is not None and moved > self.hold_after:
                    self.is_held.set()
                    self.released.wait()
                if passes or moved == len(data):
                    goal.sendall(data)
        except OSError:
            pass
        for end in (source, goal):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def release(self):
        self.hold_after = None
        self.released.set()

    def cut(self):
        """Every connection is lost."""
        for pair in self.connections:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self):
        close_listener(self.listener)
        self.release()
        self.cut()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Impostor:
    """A server that answers every connection with `bytes`, and then is silent, or ends it."""

    def __init__(self, data=b"", ends=False):
        self.data, self.ends = data, ends
        self.kept = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.target = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
                if self.data:
                    client.sendall(self.data)
                if self.ends:
                    client.close()
                else:
                    self.kept.append(client)
            except OSError:
                if self.listener.fileno() < 0:
                    return

    def __enter__(self):
        return self

    def __exit__(self, *_):
        close_listener(self.listener)
        for client in self.kept:
            client.close()


def close_listener(listener):
    """At once: the kernel keeps one that a thread accepts on."""
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def interrupt(process):
    process.send_signal(signal.SIGINT)


def rich_status(code, reason, message="words", **metadata):
    """The trailers of a refusal."""
    info = error_details_pb2.ErrorInfo(reason=reason, domain="holdfast", metadata=metadata)
    packed = any_pb2.Any()
    packed.Pack(info)
    status = status_pb2.Status(code=code.value[0], message=message, details=[packed])
    return (("grpc-status-details-bin", status.SerializeToString()),)


class Fake:
    """A gRPC server that answers every call as `answer(method, request, context)` says, in bytes."""

    def __init__(self, answer):
        def handler(details):
            method = details.method.split("/")[-1]
            if method == "Watch":
                return grpc.unary_stream_rpc_method_handler(lambda request, context: answer(method, request, context))
            if method == "ImportStock":
                return grpc.stream_unary_rpc_method_handler(lambda requests, context: answer(method, list(requests), context))
            return grpc.unary_unary_rpc_method_handler(lambda request, context: answer(method, request, context))

        class Handler(grpc.GenericRpcHandler):
            def service(self, details):
                return handler(details)

        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        self.server.add_generic_rpc_handlers((Handler(),))
        self.target = "127.0.0.1:%d" % self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop(0).wait()


def refuse(context, code, reason, message="words", **metadata):
    context.set_trailing_metadata(rich_status(code, reason, message, **metadata))
    context.abort(code, message)
