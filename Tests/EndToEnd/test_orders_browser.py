"""The pages of examples/orders in Debian's Chromium: what a customer sees and does. `make test-console` runs it."""

import time
import types

import pytest

from test_console_browser import CONTRAST, CONTRAST_MIN
from test_orders import serving, shop_module

pytestmark = pytest.mark.browser
pytest.importorskip("selenium")

from browser import browser, text, wait  # noqa: E402
from orders import Orders  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402


@pytest.fixture
def orders(tmp_path):
    return Orders(tmp_path / "shop.sqlite")


@pytest.fixture
def shop(orders):
    """Its address. Nobody is behind it but this test."""
    holdfast = types.SimpleNamespace(levels=lambda skus: {"ticket": (3, 5), "shirt": (0, 2), "poster": (0, 0)})
    with serving(shop_module.Server(shop_module.Shop(orders, holdfast))) as address:
        yield f"http://{address}"


def look(driver):
    """What must be so of every page: readable, named, and no wider than the screen."""
    assert driver.execute_script(CONTRAST, CONTRAST_MIN) == []
    assert driver.execute_script("return document.documentElement.lang") == "en"
    assert driver.execute_script("return [...document.querySelectorAll('input:not([type=hidden]), select')]"
                                 ".every((field) => field.labels.length === 1 || field.getAttribute('aria-label'))")
    assert driver.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def press(driver, words):
    next(button for button in driver.find_elements(By.TAG_NAME, "button") if words in button.text).click()


@pytest.mark.parametrize("width, dark", [(1280, False), (1280, True), (390, False), (390, True)])
def test_a_customer_buys(orders, shop, width, dark):
    """Without scripts, by what the page itself asks for again."""
    with browser(width=width, dark=dark, javascript=False) as driver:
        driver.get(shop)
        look(driver)
        field = driver.find_element(By.NAME, "ticket")
        field.clear()
        field.send_keys("2")
        press(driver, "Check out")
        wait(driver, lambda it: text(it, "h1") == "We have your order")
        look(driver)
        order = driver.current_url.rsplit("/", 1)[1]
        orders.reserved(order, "r1", time.time() + 60, "HELD")
        wait(driver, lambda it: text(it, "h1") == "It is held for you")
        look(driver)
        Select(driver.find_element(By.NAME, "card")).select_by_value("4000000000000119")
        press(driver, "Pay 98.00")
        wait(driver, lambda it: "on its way" in text(it, ".card"))
        assert orders.get(order)["card"] == "4000000000000119"
        orders.authorized(order), orders.confirmed(order), orders.captured(order)
        wait(driver, lambda it: text(it, "h1") == "Paid. It is yours")
        look(driver)


def test_a_customer_is_too_late(orders, shop):
    with browser(width=390) as driver:
        driver.get(shop)
        press(driver, "Check out")
        wait(driver, lambda it: text(it, "h1") == "We have your order")
        order = driver.current_url.rsplit("/", 1)[1]
        orders.reserved(order, "r1", time.time() + 1, "HELD")
        wait(driver, lambda it: text(it, "h1") == "It is held for you")
        orders.ended(order, "r1", "EXPIRED")
        # The page looks again when the hold has ended.
        wait(driver, lambda it: text(it, "h1") == "This order is cancelled")
        look(driver)
        assert "The time to pay was over." in text(driver, ".card")
        driver.find_element(By.LINK_TEXT, "Back to the cart").click()
        wait(driver, lambda it: text(it, "h1") == "Your cart")


def test_two_clicks_and_the_back_button(orders, shop):
    """Two clicks are one order; a cart that one comes back to is another."""
    with browser() as driver:
        driver.get(shop)
        driver.execute_script("const form = document.querySelector('form'); form.submit(); form.submit()")
        wait(driver, lambda it: text(it, "h1") == "We have your order")
        first = driver.current_url
        press(driver, "Cancel the order")
        wait(driver, lambda it: text(it, "h1") == "This order is cancelled")
        driver.get(shop)
        press(driver, "Check out")
        wait(driver, lambda it: text(it, "h1") == "We have your order")
        assert driver.current_url != first
        assert orders.database.execute("select count(*) from orders").fetchone()[0] == 2
