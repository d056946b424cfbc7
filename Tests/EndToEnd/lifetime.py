"""What a test or a script has started ends with it, however it ends: after a kill -9 no `finally` is run."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import threading

# Whose parent has ended before the kernel was asked would never hear of it.
BEGIN = '[ "$PPID" = "$0" ] && exec "$@"'
REMOVE = 'cat >/dev/null; for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$0" 2>/dev/null && exit; sleep 0.2; done'


def tied(*command):
    """The command, as one that is killed when this process ends; its process id is the command's.

    The kernel goes by the thread that starts it, so only what the main thread starts is tied. Where there is no setpriv(1),
    of Linux, nothing is.
    """
    words = list(map(str, command))
    if threading.current_thread() is not threading.main_thread() or not shutil.which("setpriv"):
        return words
    return ["setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", BEGIN, str(os.getpid()), *words]


class Folder:
    """A folder for as long as this process is there. Its `path` is gone after remove(), or when the process has ended."""

    def __init__(self, prefix, parent=None):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        # Waits for the end of its input, which nobody else has open. Ctrl-C goes to our session, and not to it.
        self.keeper = subprocess.Popen(["sh", "-c", REMOVE, self.path], stdin=subprocess.PIPE, start_new_session=True)

    def remove(self):
        self.keeper.stdin.close()
        self.keeper.wait()
