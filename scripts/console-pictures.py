#!/usr/bin/env python3
"""Pictures of the console under load, for docs/pictures: at the width of a phone and of a desk, light and dark.

    scripts/console-pictures.py [FOLDER]

Needs the release build, and what `make bootstrap-browser` installs.
"""

import pathlib
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "Tests" / "EndToEnd"))

from browser import browser, picture, text, wait  # noqa: E402
from server import Server  # noqa: E402

RELEASE = REPOSITORY / ".build" / "release"
WARM_SECONDS = 75
LOAD_SECONDS = 240
# Of a phone, the first screens: the whole page is some ten of them.
PICTURES = [
    ("console-1280-light", 1280, False, 1450), ("console-1280-dark", 1280, True, 1450),
    ("console-390-light", 390, False, 1650), ("console-390-dark", 390, True, 1650),
]


def skus_file(folder):
    """A shop's items, a few of which everybody wants."""
    names = ["ticket-front-row", "sneaker-limited-44", "console-bundle", "vinyl-first-press", "poster-signed"]
    rows = [f"{name},,{400_000 if place else 3_000},{60 - 10 * place}" for place, name in enumerate(names)]
    rows += [f"shirt-{number:03},hamburg,200000,1" for number in range(60)]
    path = folder / "skus.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def main():
    target = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "docs" / "pictures")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="holdfast-pictures-") as folder, \
            Server(RELEASE / "holdfast", "--loops", "2") as server:
        load = subprocess.Popen(
            [RELEASE / "holdfast-load", "run", "--target", server.target, "--rate", "2000-9000/40s,6000/200s",
             "--arrivals", "poisson", "--skus-file", skus_file(pathlib.Path(folder)), "--confirm-share", "0.5",
             "--release-share", "0.3", "--ttl", "5-20", "--connections", "8"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
        try:
            time.sleep(WARM_SECONDS)
            assert load.poll() is None, "the load has ended"
            for name, width, is_dark, height in PICTURES:
                with browser(width, 900, dark=is_dark) as driver:
                    driver.get(f"http://{server.admin}/console")
                    wait(driver, lambda it: text(it, "#badge-live") == "live")
                    wait(driver, lambda it: it.find_elements("css selector", "#hot .sku button"))
                    # Not the first, which is sold out.
                    driver.find_elements("css selector", "#hot .sku button")[1].click()
                    wait(driver, lambda it: "History" in text(it, "#answer"))
                    driver.execute_script("window.scrollTo(0, 0); document.activeElement.blur()")
                    time.sleep(2)
                    picture(driver, target / f"{name}.png", height)
                # A page has few colours: a third of the size.
                subprocess.run(["pngquant", "--force", "--ext", ".png", "--strip", target / f"{name}.png"], check=True)
        finally:
            load.terminate()
            load.wait()


main()
