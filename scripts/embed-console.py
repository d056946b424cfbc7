#!/usr/bin/env python3
"""Writes the files of web/ into Swift sources, so that the server has them without a file system.

    scripts/embed-console.py            writes Sources/Admin/Console/Console*.swift anew
    scripts/embed-console.py --check    fails where they are not what it would write
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = {
    "web/console/console.html": ("ConsoleHTML", "The page."),
    "web/console/login.html": ("ConsoleLoginHTML", "The page that asks for a token."),
    "web/console/console.css": ("ConsoleStyle", "The pages' style."),
    "web/console/console.js": ("ConsoleScript", "The page's script."),
}


def embedded(path, name, what):
    text = (ROOT / path).read_text()
    # A literal with two number signs: whatever is between is what it says.
    assert '"""##' not in text and "\\##" not in text, f"{path} ends the literal"
    lines = "\n".join(f"    {line}" if line else "" for line in text.split("\n"))
    return (f"// Made of {path} by scripts/embed-console.py: change that one.\n\n/// {what}\nenum {name} {{\n"
            f'  static let text = ##"""\n{lines}\n    """##\n}}\n')


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    stale = []
    for path, (name, what) in FILES.items():
        target = ROOT / f"Sources/Admin/Console/{name}.swift"
        source = embedded(path, name, what)
        if not target.exists() or target.read_text() != source:
            stale.append(str(target.relative_to(ROOT)))
            if not check:
                target.write_text(source)
    if check and stale:
        sys.exit(f"{', '.join(stale)}: not what scripts/embed-console.py makes of web/; run make console")


main()
