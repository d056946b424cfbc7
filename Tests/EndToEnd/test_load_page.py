"""The page of a run as a browser shows it: on a telephone and on a desk, light and dark."""

import json
import subprocess

import pytest

from page_browser import CHROMIUM, Browser
from server import Server

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
SCREENS = [(390, 844), (1280, 900)]


@pytest.fixture(scope="module")
def page(generator, binary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with Server(binary, "--durability", "memory") as server:
        subprocess.run(
            [generator, "run", "--target", server.target, "--admin", f"127.0.0.1:{server.admin_port}", "--scenario", "mixed",
             "--skus", "50", "--rate", "200", "--duration", "2", "--warm-up", "0.5", "--html", folder / "run.html",
             "--json", folder / "run.json", "--require", "p99<1ns", "--label", "<img src=x onerror=alert(1)>"],
            capture_output=True, timeout=120)
    report = json.loads((folder / "run.json").read_text())
    return (folder / "run.html").as_uri(), report


@pytest.fixture(scope="module")
def browser():
    with Browser() as running:
        yield running


def box(browser, script):
    return browser.evaluate(f"(() => {{ const b = ({script}).getBoundingClientRect(); "
                            "return [b.left, b.top, b.right, b.bottom]; })()")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width, height", SCREENS)
def test_it_fits_and_asks_for_nothing(browser, page, width, height, dark):
    address, _ = page
    browser.show(address, width, height, dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
    assert browser.evaluate("document.title").startswith("<img src=x")
    paper, ink = browser.evaluate("(() => { const s = getComputedStyle(document.body); "
                                  "return [s.backgroundColor, s.color]; })()")
    light = [sum(map(int, colour[4:-1].split(","))) for colour in (paper, ink)]
    assert light[0] < light[1] if dark else light[0] > light[1]
    assert browser.picture(0, height)[:4] == b"\x89PNG"


def test_a_telephone_shows_p99(browser, page):
    """On its first screen, in the table and below each spectrum, without scrolling sideways."""
    address, report = page
    browser.show(address, 390, 844)
    _, _, right, bottom = box(browser, "[...document.querySelectorAll('.figures dt')]"
                                       ".find(e => e.textContent === '99th percentile').parentElement")
    assert right <= 390 and bottom <= 844
    left, _, right, _ = box(browser, "[...document.querySelectorAll('th')].find(e => e.textContent === 'p99')")
    assert 0 <= left and right <= 390
    shown = browser.evaluate("[...document.querySelectorAll('.plot text.horizontal')]"
                             ".filter(e => getComputedStyle(e).display !== 'none').map(e => e.textContent)")
    assert "99 %" in shown and "99.9 %" not in shown


@pytest.mark.parametrize("width, height", SCREENS)
def test_one_method_is_chosen(browser, page, width, height):
    """Without a script: by the labels alone."""
    address, report = page
    browser.show(address, width, height)
    browser.call("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.show(address, width, height)
        panels = "[...document.querySelectorAll('.panel')].filter(e => e.offsetHeight > 0).map(e => e.className)"
        methods = [name for name in report["latency_microseconds"] if name != "all"]
        assert browser.evaluate("document.querySelectorAll('.panel').length") == len(methods) > 3
        assert browser.evaluate(panels) == ["panel method-reserve"]
        browser.evaluate("document.querySelector('label[for=method-confirm]').click()")
        assert browser.evaluate(panels) == ["panel method-confirm"]
        left, _, right, _ = box(browser, "[...document.querySelectorAll('.method-confirm dt')]"
                                         ".find(e => e.textContent === 'p99').parentElement")
        assert 0 <= left and right <= width
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", {"value": False})
