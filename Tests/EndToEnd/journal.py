"""A data directory from outside: where its batches lie, and how they are spoiled."""

import struct

SEGMENT_HEADER_BYTES = 4096
# Of each batch: its LSN, the bytes of its records, their number, kind, run (Sources/Log/JournalFormat.swift).
BATCH_HEADER = struct.Struct("<4xI Q II I B3x I 4x q")
assert BATCH_HEADER.size == 48


class Batch:
    """One batch: the segment file it is in, the offset of its header, and what the header says."""

    def __init__(self, path, offset, fields):
        self.path, self.offset = path, offset
        _, self.lsn, self.length, self.records, _, self.kind, self.run, _ = fields

    def flip(self, byte=0):
        """Spoils one byte of the records."""
        at = self.offset + BATCH_HEADER.size + byte
        assert byte < self.length
        with open(self.path, "r+b") as file:
            file.seek(at)
            value = file.read(1)[0]
            file.seek(at)
            file.write(bytes([value ^ 0x20]))
        return at


def segments(data):
    return sorted(data.glob("journal-*"))


def batches(data):
    """The batches of the first segment, in order, up to what cannot be one. Checksums are not looked at."""
    path = segments(data)[0]
    contents = path.read_bytes()
    magic = contents[SEGMENT_HEADER_BYTES:SEGMENT_HEADER_BYTES + 4]
    found, offset, lsn = [], SEGMENT_HEADER_BYTES, None
    while contents[offset:offset + 4] == magic and magic != bytes(4):
        batch = Batch(path, offset, BATCH_HEADER.unpack_from(contents, offset))
        if lsn is not None and batch.lsn != lsn:
            break
        found.append(batch)
        lsn = batch.lsn + batch.length
        offset += BATCH_HEADER.size + batch.length
    return found
