"""What a server did to its data directory (disk_recorder.c), and what a power cut at any moment may leave of it.

The disk keeps what was synced before. Of what was written since, it has any of the sectors, each as any of the writes
since the last sync has left it, and a sector at which the power went down may hold the first bytes of the new and the
last of the old. Of the names that were made, changed and removed since the directory was synced, it has any that agree
with each other: no name is there before the file that it names has been made.
"""

import bisect
import os
import pathlib
import shutil
import struct
import subprocess

ENTRY = struct.Struct("=IIQQqQQ")
WRITE, SYNC, END, CREATE, RENAME, UNLINK, MKDIR, TRUNCATE, SEND = range(1, 10)
ZEROS, TRUNCATED = 1, 2
SECTOR, PAGE = 512, 4096
ROOT = "."
WAYS = ("nothing", "everything", "sectors", "sectors", "pages", "in order")


def build_recorder(folder):
    """The shared object, compiled into `folder`."""
    library = pathlib.Path(folder) / "disk_recorder.so"
    source = pathlib.Path(__file__).with_name("disk_recorder.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return library


class Recorder:
    """Records the process that is started with its `environment`. `before` is what is there already, all of it safe."""

    def __init__(self, library, data, file):
        self.data, self.file = pathlib.Path(data), pathlib.Path(file)
        self.environment = {"LD_PRELOAD": str(library), "RECORD_DIRECTORY": str(self.data), "RECORD_FILE": str(self.file)}
        self.parent_inode = self.data.parent.stat().st_ino
        self.inode = self.data.stat().st_ino if self.data.exists() else None
        self.before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in self.data.iterdir()
                       } if self.data.exists() else {}

    def size(self):
        """How much is recorded by now."""
        return os.stat(self.file).st_size


class Event:
    __slots__ = ("kind", "flags", "call", "inode", "offset", "length", "payload", "failed", "names")

    def __init__(self, fields, payload):
        self.kind, self.flags, self.call, self.inode, self.offset, self.length, _ = fields
        self.payload = payload
        self.failed = False
        if self.kind in (CREATE, RENAME, UNLINK, MKDIR):
            self.names = payload.decode().split("\0")


class Record:
    """The events in order, and where each of them ends in the file."""

    def __init__(self, recorder):
        self.recorder = recorder
        self.events, self.ends = [], []
        data = recorder.file.read_bytes()
        place = 0
        begun = {}
        while place + ENTRY.size <= len(data):
            fields = ENTRY.unpack_from(data, place)
            place += ENTRY.size + fields[-1]
            if place > len(data):
                break  # The process was killed in the middle of it, and before the call.
            event = Event(fields, data[place - fields[-1]:place])
            if event.kind == END:
                begun[event.call].failed = event.offset < 0
            else:
                begun[event.call] = event
            self.events.append(event)
            self.ends.append(place)

    def promise_before(self, size):
        """Where the newest byte was sent that a peer may have had when the record was of this size."""
        last = bisect.bisect_right(self.ends, size) - 1
        while self.events[last].kind != SEND:
            last -= 1
        return last


class File:
    """A file: the bytes that are safe, and the changes since, each a place and bytes, or a length."""

    def __init__(self, content=b""):
        self.safe = bytearray(content)
        self.changes = {}  # by call, in order: (offset, bytes or None for a length)
        self.done = set()

    def sync(self, before):
        """Makes every change safe that was over when the sync `before` began."""
        for call in [call for call in self.changes if call in self.done and call < before]:
            apply(self.safe, *self.changes.pop(call))
            self.done.discard(call)

    def newest(self):
        """The bytes that a reader sees."""
        content = bytearray(self.safe)
        for change in self.changes.values():
            apply(content, *change)
        return bytes(content)

    def image(self, way, draw):
        """The bytes after a power cut."""
        if way == "everything":
            return self.newest()
        content = bytearray(self.safe)
        last = draw.randrange(len(self.changes) + 1) if way == "in order" else 0
        share = draw.choice([0.1, 0.5, 0.9])
        for index, change in enumerate(self.changes.values()):
            if way == "in order" and index < last:
                apply(content, *change)
            elif way == "in order" and index == last:
                apply_torn(content, *change, draw)
            elif way in ("sectors", "pages"):
                apply_some(content, *change, SECTOR if way == "sectors" else PAGE, share, draw)
        return bytes(content)


def apply(content, offset, data):
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    content.extend(bytes(max(0, offset + len(data) - len(content))))
    content[offset:offset + len(data)] = data


def apply_torn(content, offset, data, draw):
    if data is not None:
        apply(content, offset, data[:draw.randrange(len(data) + 1)])


def apply_some(content, offset, data, unit, share, draw):
    if data is None:
        if draw.random() < share:
            apply(content, offset, None)
        return
    place = offset
    end = offset + len(data)
    while place < end:
        stop = min(end, (place // unit + 1) * unit)
        chosen = draw.random()
        if chosen < share:
            apply(content, place, data[place - offset:stop - offset])
        elif chosen < share + 0.02:
            apply_torn(content, place, data[place - offset:stop - offset], draw)
        place = stop
    if draw.random() < 0.5:
        # The file has its length, and nothing in it.
        content.extend(bytes(max(0, end - len(content))))


class Disk:
    """The disk as the record leaves it, event by event.

    - Parameter lost: kinds of syncs (see `sync_kind`) that do nothing: a server that forgot them.
    """

    def __init__(self, record, lost=()):
        self.record, self.lost = record, lost
        recorder = record.recorder
        self.position = 0
        self.files = {inode: File(content) for inode, content in recorder.before.values()}
        self.safe_names = {name: self.files[inode] for name, (inode, _) in recorder.before.items()}
        self.names = dict(self.safe_names)
        self.name_changes = {}  # by call, in order
        self.root_is_safe = self.root_exists = recorder.inode is not None
        self.syncs = {}

    def advance(self, position):
        """Goes on to where all events before `position` have happened."""
        while self.position < position:
            self.take(self.record.events[self.position])
            self.position += 1

    def take(self, event):
        if event.kind == WRITE:
            data = bytes(event.length) if event.flags & ZEROS else event.payload
            self.files[event.inode].changes[event.call] = (event.offset, data)
        elif event.kind == TRUNCATE:
            self.change(event, self.files[event.inode], event.offset)
        elif event.kind == SYNC:
            self.syncs[event.call] = event.inode
        elif event.kind == END:
            self.end(event)
        elif event.kind == MKDIR:
            self.root_exists = True
        elif event.kind in (CREATE, RENAME, UNLINK):
            self.take_name(event)

    def change(self, event, file, length):
        file.changes[event.call] = (length, None)
        file.done.add(event.call)

    def take_name(self, event):
        file = None
        if event.kind == CREATE and event.flags & TRUNCATED:
            self.change(event, self.names[event.names[0]], 0)
            return
        if event.kind == CREATE:
            file = self.files[event.inode] = File()
        self.name_changes[event.call] = (event.kind, event.names, file)
        rename(self.names, event.kind, event.names, file)

    def end(self, event):
        if event.call in self.syncs:
            inode = self.syncs.pop(event.call)
            if event.offset != 0:
                raise RuntimeError("a sync failed")
            self.sync(inode, event.call)
            return
        for file in self.files.values():
            if event.call in file.changes:
                file.done.add(event.call)

    def sync(self, inode, call):
        if self.sync_kind(inode) in self.lost:
            return
        if inode == self.record.recorder.parent_inode:
            self.root_is_safe = True
        elif inode in self.files:
            self.files[inode].sync(call)
        else:
            for earlier in [earlier for earlier in self.name_changes if earlier < call]:
                rename(self.safe_names, *self.name_changes.pop(earlier))

    def sync_kind(self, inode):
        """`parent`, `directory`, or the beginning of the file's name."""
        if inode == self.record.recorder.parent_inode:
            return "parent"
        if inode not in self.files:
            return "directory"
        names = [name for name, file in self.names.items() if file is self.files[inode]]
        return names[0].split("-")[0] if names else "removed"

    def image(self, folder, way, draw):
        """Writes what a power cut now may leave into `folder`, which is made. Returns what it chose, in a few words."""
        if not self.root_is_safe and (not self.root_exists or way == "nothing" or draw.random() < 0.2):
            return "no directory"
        os.mkdir(folder, 0o700)
        names = self.image_of_names(way, draw)
        contents = {}
        for name, file in names.items():
            if id(file) not in contents:
                contents[id(file)] = file.image(way, draw)
            path = pathlib.Path(folder) / name
            path.write_bytes(contents[id(file)])
            path.chmod(0o600)
        pending = sum(len(file.changes) for file in self.files.values())
        return f"{way} of {pending} writes and {len(self.name_changes)} names"

    def image_of_names(self, way, draw):
        names = dict(self.safe_names)
        last = draw.randrange(len(self.name_changes) + 1) if way == "in order" else 0
        share = draw.choice([0.1, 0.5, 0.9])
        missing = set()
        for index, (kind, changed, file) in enumerate(self.name_changes.values()):
            happened = (way == "everything" or way == "in order" and index < last
                        or way in ("sectors", "pages") and draw.random() < share)
            # What comes after a change that has not happened, to the same names, has not either.
            if happened and not missing & set(changed):
                rename(names, kind, changed, file)
            else:
                missing |= set(changed)
        return names


def rename(names, kind, changed, file):
    if kind == CREATE:
        names[changed[0]] = file
    elif kind == RENAME:
        names[changed[1]] = names.pop(changed[0])
    else:
        del names[changed[0]]


def is_complete(record, folder):
    """Whether all that was done is in the record: replayed, it gives the very bytes that are there."""
    disk = Disk(record)
    disk.advance(len(record.events))
    names = {name: file.newest() for name, file in disk.names.items()}
    return names == {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


def copy(folder, target):
    shutil.copytree(folder, target)
    return pathlib.Path(target)
