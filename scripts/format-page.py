#!/usr/bin/env python3
"""Copies the byte tables into docs/FORMAT.md: each block behind `<!-- from FILE -->` is the comment at the top of
that file. The code is where they are changed. With --check: changes nothing, exit status 1 where one differs."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/FORMAT.md"
BLOCK = re.compile(r"<!-- from (\S+) -->\n```text\n.*?^```\n", re.MULTILINE | re.DOTALL)


def opening_comment(path):
    lines = []
    for line in (ROOT / path).read_text().splitlines():
        if not line.startswith("//"):
            break
        lines.append(line[2:].removeprefix(" "))
    return "\n".join(lines)


def main():
    text = PAGE.read_text()
    fresh = BLOCK.sub(lambda found: f"<!-- from {found[1]} -->\n```text\n{opening_comment(found[1])}\n```\n", text)
    if fresh == text:
        return 0
    if "--check" in sys.argv:
        print("docs/FORMAT.md is stale; run scripts/format-page.py", file=sys.stderr)
        return 1
    PAGE.write_text(fresh)
    return 0


sys.exit(main())
