#!/usr/bin/env python3
"""The pictures of a load run's page in docs/pictures: on a telephone and on a desk, light and dark.

    report-pictures.py PAGE.html [FOLDER]

Needs Chromium. Look at them before they are committed.
"""
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE / "Tests/EndToEnd"))

from page_browser import CHROMIUM, Browser  # noqa: E402  its folder must be on the path first

# Width and height of the screen, and how much of the page is in the picture.
SCREENS = [(390, 844, 1500), (1280, 900, 1150)]


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    if CHROMIUM is None:
        sys.exit("report-pictures: no Chromium; it is in Debian's chromium")
    folder = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "docs/pictures"
    folder.mkdir(parents=True, exist_ok=True)
    page = pathlib.Path(sys.argv[1]).resolve().as_uri()
    with Browser() as browser:
        for width, height, shown in SCREENS:
            for dark in (False, True):
                browser.show(page, width, height, dark)
                file = folder / f"report-{width}-{'dark' if dark else 'light'}.png"
                file.write_bytes(browser.picture(0, shown))
                print(f"{file}: {file.stat().st_size // 1000} kB")
        browser.show(page, 1280, 900)
        top = browser.evaluate("document.querySelector('.choice').getBoundingClientRect().top + scrollY - 90")
        file = folder / "report-methods.png"
        file.write_bytes(browser.picture(top, 640))
        print(f"{file}: {file.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
