"""Debian's Chromium through its driver: a browser for the tests of the console and for its pictures."""

import base64
import contextlib
import shutil

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

SECONDS = 30


@contextlib.contextmanager
def browser(width=1280, height=900, dark=False, reduced_motion=False, javascript=True):
    """A browser without a window, and without anything kept from another one."""
    options = Options()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                     "--force-device-scale-factor=1", "--hide-scrollbars", "--no-first-run", f"--window-size={width},{height}"):
        options.add_argument(argument)
    if reduced_motion:
        options.add_argument("--force-prefers-reduced-motion")
    if not javascript:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        # A window has a least width, a phone is narrower.
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})
        yield driver
    finally:
        driver.quit()


def wait(driver, condition, seconds=SECONDS):
    """Until condition(driver) is true; what it returned."""
    return WebDriverWait(driver, seconds).until(condition)


def text(driver, selector):
    """What an element says; nothing where it is not there."""
    return driver.execute_script(
        "const found = document.querySelector(arguments[0]); return found ? found.textContent : ''", selector)


def picture(driver, path, height=None):
    """The page from its top, whole or `height` pixels of it."""
    width, whole = driver.execute_script("return [document.documentElement.clientWidth, document.documentElement.scrollHeight]")
    shown = driver.execute_cdp_cmd("Page.captureScreenshot", {
        "format": "png", "captureBeyondViewport": True,
        "clip": {"x": 0, "y": 0, "width": width, "height": min(whole, height or whole), "scale": 1}})
    path.write_bytes(base64.b64decode(shown["data"]))
