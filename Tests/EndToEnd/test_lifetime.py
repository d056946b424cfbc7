"""What tests and scripts start is gone when they are killed: no process, no folder."""

import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

import engines
from conftest import REPOSITORY
from lifetime import Folder, tied
from server import eventually

HERE = pathlib.Path(__file__).parent
# Says what it has made, and waits.
WITH_A_CHILD = """
import subprocess, sys
from lifetime import Folder, tied
folder = Folder("holdfast-lifetime-")
(folder.path / "a").mkdir()
child = subprocess.Popen(tied("sleep", "1000"))
print(child.pid, folder.path, flush=True)
sys.stdin.read()
"""
WITH_POSTGRES = """
import sys
from postgres import Postgres
with Postgres() as database:
    print((database.folder / "data" / "postmaster.pid").read_text().split()[0], database.folder, flush=True)
    sys.stdin.read()
"""


def is_there(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT], ids=lambda it: it.name)
@pytest.mark.parametrize("script, folder", [(WITH_A_CHILD, HERE), (WITH_POSTGRES, REPOSITORY / "examples/orders/naive")],
                         ids=["a child", "PostgreSQL"])
def test_nothing_is_left(script, folder, end):
    if script is WITH_POSTGRES and not engines.is_installed():
        pytest.skip("PostgreSQL's server is not installed (Debian: postgresql)")
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONPATH": str(folder)})
    pid, made = process.stdout.readline().split()
    assert is_there(pid) and os.path.exists(made)
    process.send_signal(end)
    process.communicate(timeout=60)
    eventually(lambda: not is_there(pid) and not os.path.exists(made))


def test_a_folder_is_removed():
    folder = Folder("holdfast-lifetime-")
    (folder.path / "file").write_text("")
    folder.remove()
    assert not folder.path.exists()


def test_a_thread_ties_nothing():
    """The kernel would end the command with the thread."""
    words = []
    thread = threading.Thread(target=lambda: words.extend(tied("sleep", 1)))
    thread.start()
    thread.join()
    assert words == ["sleep", "1"]


def test_the_demo_takes_its_server_along(binary, generator, tmp_path):
    """scripts/demo.sh, killed under load."""
    assert binary.parent == generator.parent
    demo = subprocess.Popen([REPOSITORY / "scripts/demo.sh", "--duration", "60"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                            env={**os.environ, "HOLDFAST_BINARIES": str(binary.parent), "TMPDIR": str(tmp_path)})
    assert demo.stdout.readline().startswith("server: ")
    (ready,) = tmp_path.glob("*/ready")
    server = ready.read_text().split()[-1]
    assert is_there(server)
    demo.kill()
    demo.communicate(timeout=60)
    eventually(lambda: not is_there(server))
