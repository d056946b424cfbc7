"""The load generator on a terminal: what a terminal emulator shows of it, and that it is as before afterwards."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pyte
import pytest

from server import Server, eventually


@pytest.fixture(scope="module")
def server(binary):
    with Server(binary, "--durability", "memory") as running:
        yield running


class Terminal:
    """A run on a terminal of its own, and what a person would see of it."""

    def __init__(self, generator, server, *flags, columns=120, rows=40, environment=()):
        self.screen = pyte.HistoryScreen(columns, rows, history=2000)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        master, slave = pty.openpty()
        self.master = master
        self.resize(columns, rows)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [generator, "run", "--target", server.target, "--admin", f"127.0.0.1:{server.admin_port}",
             "--scenario", "mixed", "--rate", "300", "--skus", "50", "--warm-up", "0", *map(str, flags)],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, "TERM": "xterm-256color", **dict(environment)})

    def resize(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    def read(self, seconds=0.1):
        """Takes what has come."""
        if select.select([self.master], [], [], seconds)[0]:
            try:
                part = os.read(self.master, 65536)
            except OSError:
                return
            self.raw += part
            self.stream.feed(part)

    @property
    def text(self):
        return "\n".join(self.screen.display)

    def wait(self, condition, seconds=60):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.read()
            if condition():
                return
        raise AssertionError(f"not within {seconds} s:\n{self.text}")

    def finish(self, seconds=90):
        """Its exit status, once all that it has written was read."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read()
        status = self.process.wait(timeout=10)
        for _ in range(5):
            self.read()
        return status

    @property
    def is_full(self):
        """The other screen is shown: it was entered more often than left."""
        return self.raw.count(b"\x1b[?1049h") > self.raw.count(b"\x1b[?1049l")

    @property
    def is_restored(self):
        """No other screen, a cursor, and the settings of before."""
        hidden = self.raw.rfind(b"\x1b[?25l")
        return (not self.is_full and self.raw.rfind(b"\x1b[?25h") >= hidden
                and termios.tcgetattr(self.slave) == self.before)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def run(generator, server):
    terminals = []

    def start(*flags, **options):
        terminals.append(Terminal(generator, server, *flags, **options))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


@pytest.mark.parametrize("columns", [100, 160])
def test_a_wide_terminal_has_a_full_screen(run, columns):
    terminal = run("--duration", "4", columns=columns)
    parts = ["holdfast-load", "MEASURING", "requests/s", "p99 ", "latency, the last second", "methods", "Reserve ",
             "outcomes", "gRPC codes", "OK ", "reserved", "nothing wrong so far", "live hold", "CPU"]
    # A picture may have come in two pieces.
    terminal.wait(lambda: all(part in terminal.text for part in parts))
    shown = terminal.text
    assert terminal.is_full
    # The last column that is used: it fills the width, and nothing is broken into another line.
    assert shown.splitlines()[0].rstrip().endswith("MEASURING")
    assert len(shown.splitlines()[0].rstrip()) == columns
    assert terminal.finish() == 0
    assert terminal.is_restored
    assert "VERDICT: nothing oversold, nothing lost" in terminal.raw.decode(errors="replace")


@pytest.mark.parametrize("columns, rows", [(80, 40), (160, 20)])
def test_a_small_terminal_has_a_few_lines(run, columns, rows):
    terminal = run("--duration", "3", columns=columns, rows=rows)
    terminal.wait(lambda: "accepted" in terminal.text and "requests/s" in terminal.text)
    assert "running" in terminal.text and "methods" not in terminal.text
    assert terminal.finish() == 0
    assert b"\x1b[?1049" not in terminal.raw and terminal.is_restored


def test_it_follows_the_size(run):
    terminal = run("--duration", "20", columns=80)
    terminal.wait(lambda: "accepted" in terminal.text)
    terminal.resize(130, 40)
    terminal.process.send_signal(signal.SIGWINCH)
    terminal.wait(lambda: terminal.is_full and "Reserve" in terminal.text)
    terminal.resize(80, 30)
    terminal.process.send_signal(signal.SIGWINCH)
    terminal.wait(lambda: not terminal.is_full)
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == 130
    assert terminal.is_restored


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGABRT, -6),
                                            (signal.SIGILL, -4), (signal.SIGSEGV, -11)])
def test_whatever_ends_it_leaves_the_terminal(run, number, status):
    terminal = run("--duration", "60")
    terminal.wait(lambda: terminal.is_full and "MEASURING" in terminal.text)
    terminal.process.send_signal(number)
    assert terminal.finish() == status
    assert terminal.is_restored, terminal.raw[-300:]


def test_a_second_interrupt_ends_it_at_once(generator, start):
    """The first waits for what is in flight, and a server that stands still answers nothing."""
    server = start("--durability", "memory")
    terminal = Terminal(generator, server, "--duration", "60")
    try:
        terminal.wait(lambda: terminal.is_full and "Reserve" in terminal.text)
        os.kill(server.pid, signal.SIGSTOP)
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait(lambda: "ENDING EARLY" in terminal.text)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.finish() == 130
        assert terminal.is_restored and b"VERDICT" not in terminal.raw
    finally:
        os.kill(server.pid, signal.SIGCONT)
        terminal.close()


def test_it_is_stopped_and_goes_on(run):
    """Control-Z, as a shell gets it: the terminal is the shell's meanwhile."""
    terminal = run("--duration", "60")
    terminal.wait(lambda: terminal.is_full and "MEASURING" in terminal.text)
    terminal.process.send_signal(signal.SIGTSTP)
    eventually(lambda: os.waitpid(terminal.process.pid, os.WUNTRACED | os.WNOHANG)[1] != 0, seconds=20)
    for _ in range(5):
        terminal.read()
    assert terminal.is_restored
    terminal.process.send_signal(signal.SIGCONT)
    terminal.wait(lambda: terminal.is_full)
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == 130
    assert terminal.is_restored


def test_without_colours(run):
    terminal = run("--duration", "2", environment={"NO_COLOR": "1"})
    terminal.wait(lambda: terminal.is_full and "MEASURING" in terminal.text)
    assert terminal.finish() == 0
    assert not re.search(rb"\x1b\[[0-9;]+m", terminal.raw)


def test_without_a_terminal_there_are_plain_lines(generator, server):
    done = subprocess.run(
        [generator, "run", "--target", server.target, "--duration", "6", "--rate", "100", "--warm-up", "0"],
        capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"requests/s" in done.stderr
