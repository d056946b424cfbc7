#!/usr/bin/env python3
"""Builds one protobuf message without a protobuf library and prints where its strings lie,
so that `hammer --patch` can be aimed.

    mkmsg.py OUT FIELD...            FIELD is NUMBER:TYPE:VALUE or NUMBER:{FIELD ...}
    mkmsg.py hold.bin '1:s:0000000000000000' '2:{1:s:sku-0000000 3:v:1}' '3:v:600'

Types: s string, b bytes (hex), v varint (bool, enum, int32/64, uint32/64; may be negative or 0x...),
z zigzag varint (sint32/64), f fixed32, F fixed64 (also float and double, when the value has a point).
Inside braces a value ends at a space or brace; put it in "double quotes" if it holds one. A field
that stands twice is repeated. --frame FILE also writes the message behind its 5-byte gRPC prefix,
which is what h2load -d wants.
"""
import argparse
import re
import struct
import sys


def varint(n):
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def value_of(kind, text):
    """(wire type, bytes without a length)"""
    if kind == "s":
        return 2, text.encode()
    if kind == "b":
        return 2, bytes.fromhex(text)
    if kind in "vz":
        n = int({"true": "1", "false": "0"}.get(text, text), 0)
        if not -(1 << 63) <= n < 1 << 64:
            raise ValueError(f"{text} does not fit 64 bits")
        return 0, varint(n if kind == "v" else n << 1 ^ n >> 63)
    if kind in "fF":
        size = "<f" if kind == "f" else "<d"
        if "." in text:
            return (5 if kind == "f" else 1), struct.pack(size, float(text))
        n, bits = int(text, 0), 32 if kind == "f" else 64
        return (5 if kind == "f" else 1), (n & (1 << bits) - 1).to_bytes(bits // 8, "little")
    raise ValueError(f"unknown type {kind!r}")


class Parser:
    def __init__(self, text):
        self.text, self.at = text, 0

    def take(self, pattern, what):
        m = re.compile(pattern).match(self.text, self.at)
        if not m:
            raise ValueError(f"{what} expected at {self.text[self.at:self.at + 30]!r} in {self.text!r}")
        self.at = m.end()
        return m

    def field(self, nested, name=""):
        """(encoded field, [(offset in it, name, type, value bytes)])"""
        number = int(self.take(r"(\d+):", "NUMBER:")[1])
        if not 0 < number < 1 << 29:
            raise ValueError(f"field number {number}")
        name += str(number)
        if self.text.startswith("{", self.at):
            self.at += 1
            wire, body, marks = 2, b"", []
            while self.take(r"\s*(\})?", "")[1] is None:
                part, inner = self.field(True, name + ".")
                marks += [(len(body) + off, *rest) for off, *rest in inner]
                body += part
        else:
            kind = self.take(r"(\w):", "TYPE:")[1]
            if nested:
                m = self.take(r'"((?:[^"\\]|\\.)*)"|([^\s{}"]*)', "a value")
                text = m[2] if m[1] is None else re.sub(r"\\(.)", r"\1", m[1])
            else:
                text, self.at = self.text[self.at:], len(self.text)
            wire, body = value_of(kind, text)
            marks = [(0, name, kind, body)] if kind in "sb" else []
        head = varint(number << 3 | wire) + (varint(len(body)) if wire == 2 else b"")
        return head + body, [(len(head) + off, *rest) for off, *rest in marks]


def build(specs):
    message, marks = b"", []
    for spec in specs:
        parser = Parser(spec)
        part, found = parser.field(False)
        if spec[parser.at:].strip():
            raise ValueError(f"{spec[parser.at:]!r} is left over in {spec!r}")
        marks += [(len(message) + off, *rest) for off, *rest in found]
        message += part
    return message, marks


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("field", nargs="*")
    parser.add_argument("--frame", metavar="FILE")
    args = parser.parse_args()
    try:
        message, marks = build(args.field)
    except ValueError as error:
        sys.exit(f"mkmsg.py: {error}")
    with open(args.out, "wb") as f:
        f.write(message)
    if args.frame:
        with open(args.frame, "wb") as f:
            f.write(b"\0" + struct.pack(">I", len(message)) + message)
    print(f"{args.out}: {len(message)} bytes")
    for offset, name, kind, value in marks:
        shown = repr(value.decode()) if kind == "s" else value.hex()
        print(f"field {name:8} offset {offset:4} length {len(value):3}  {shown}")
        for run in re.finditer(rb"[0-9a-f]{4,}", value) if kind == "s" else ():
            print(f"{'':15}--patch {offset + run.start()}:{len(run[0])}:...  {run[0].decode()}")


main()
