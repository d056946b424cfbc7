"""The console in Debian's Chromium: what a person sees and does. `make test-console` runs it."""

import pytest

from client import Client, fresh, line
from server import Server, holdfast
from test_console import Events

pytestmark = pytest.mark.browser
pytest.importorskip("selenium")

from browser import browser, text, wait  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

HOSTILE = "<img/src=x/onerror=\"document.title='broken'\">"
# WCAG 2.1 AA, for text of usual size.
CONTRAST_MIN = 4.5


@pytest.fixture(scope="module")
def server(binary):
    with Server(binary) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with Client(server.target, caller="till-7") as client:
        yield client


def open_console(driver, server):
    driver.get(f"http://{server.admin}/console")
    wait(driver, lambda it: text(it, "#badge-live") == "live")


def complaints(driver):
    """What the browser has to say against the page, such as a policy that was broken."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def test_numbers_come_alive(server, client):
    sku = fresh("ticket")
    client.adjust(sku, set_on_hand=1000)
    with browser() as driver:
        open_console(driver, server)
        assert text(driver, "#badge-state") == "ready"
        for _ in range(30):
            client.reserve(line(sku))
        wait(driver, lambda it: sku in text(it, "#hot"))
        wait(driver, lambda it: "Reserve" in text(it, "#methods"))
        wait(driver, lambda it: text(it, "#badge-checks") == "balances: none impossible")
        wait(driver, lambda it: it.execute_script("return document.querySelector('.curve.held').getAttribute('d').length") > 20)
        assert "30" in text(driver, "#outcomes")
        assert complaints(driver) == []


def test_other_pages_add_no_points(server):
    """Whoever opens a page has a state published in between; the curves have one point for each second all the same."""
    with browser() as driver:
        open_console(driver, server)
        now = "return [past.held.length, lastSample]"
        points, sample = driver.execute_script(now)
        for _ in range(20):
            events = Events(server)
            assert events.status == 200 and events.next()[0] == "past"
            events.close()
        later, last = driver.execute_script(now)
        assert later - points == last - sample


def test_look_ups_by_keyboard(server, client):
    sku = fresh("ticket")
    client.adjust(sku, set_on_hand=10, reason="delivery 4711")
    held = client.reserve(line(sku, 3)).reservation_id
    with browser() as driver:
        open_console(driver, server)
        field = driver.find_element(By.CSS_SELECTOR, "#form-stock input[name=sku]")
        field.send_keys(sku, Keys.ENTER)
        wait(driver, lambda it: "delivery 4711" in text(it, "#answer"))
        assert "available 7" in text(driver, "#answer")
        # From an item to its reservation.
        button = driver.find_element(By.XPATH, f"//div[@id='answer']//button[text()='{held}']")
        button.send_keys(Keys.ENTER)
        wait(driver, lambda it: "state held" in text(it, "#answer"))
        assert "This is all that there is." in text(driver, "#answer")
        field = driver.find_element(By.CSS_SELECTOR, "#form-reservation input[name=id]")
        field.clear()
        field.send_keys("nothing", Keys.ENTER)
        wait(driver, lambda it: "No reservation with this id" in text(it, "#answer"))
        assert complaints(driver) == []


def test_a_hostile_name_is_a_text(server, client):
    client.adjust(HOSTILE, set_on_hand=10, reason=HOSTILE)
    client.reserve(line(HOSTILE), reference="<script>document.title='broken'</script>")
    with browser() as driver:
        open_console(driver, server)
        wait(driver, lambda it: HOSTILE in text(it, "#hot"))
        for button in driver.find_elements(By.CSS_SELECTOR, "#hot .sku button"):
            if button.text == HOSTILE:
                button.click()
                break
        wait(driver, lambda it: HOSTILE in text(it, "#answer h3") and "History" in text(it, "#answer"))
        assert driver.title == "Holdfast console"
        assert driver.find_elements(By.CSS_SELECTOR, "main img, main script") == []
        assert complaints(driver) == []


def test_nothing_comes_from_elsewhere(server):
    with browser() as driver:
        open_console(driver, server)
        loaded = driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert loaded and all(name.startswith(f"http://{server.admin}/console") for name in loaded)
        # What the policy forbids does not run, whoever puts it there.
        driver.execute_script("""
            const script = document.createElement('script');
            try { script.text = "document.title = 'broken'"; document.body.append(script); } catch { }""")
        driver.execute_script("try { document.body.innerHTML = '<b>broken</b>' } catch { }")
        assert driver.title == "Holdfast console" and text(driver, "h1") == "Holdfast"


def test_it_comes_back_after_a_restart(binary, tmp_path):
    first = Server(binary, data=tmp_path)
    port = first.admin_port
    try:
        with browser() as driver:
            open_console(driver, first)
            first.stop()
            wait(driver, lambda it: "no connection" in text(it, "#badge-live"))
            with Server(binary, "--admin-port", str(port), data=tmp_path):
                wait(driver, lambda it: text(it, "#badge-live") == "live", 60)
    finally:
        first.stop()


@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
def test_it_fits(server, client, width):
    sku = "a-very-long-name-" + "x" * 47
    client.adjust(sku, set_on_hand=10)
    client.reserve(line(sku))
    with browser(width) as driver:
        open_console(driver, server)
        wait(driver, lambda it: sku in text(it, "#hot"))
        driver.execute_script("lookUpStock(arguments[0], '')", sku)
        wait(driver, lambda it: "History" in text(it, "#answer"))
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        # A finger's size, for what is pressed.
        for button in driver.find_elements(By.CSS_SELECTOR, "header button, .forms button"):
            assert button.size["height"] >= 32


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_can_be_read(server, client, dark):
    client.adjust(sku := fresh(), set_on_hand=1)
    client.reserve(line(sku))
    with browser(dark=dark) as driver:
        open_console(driver, server)
        wait(driver, lambda it: sku in text(it, "#hot"))
        poor = driver.execute_script(CONTRAST, CONTRAST_MIN)
        assert poor == []
        # Each field has a label, each table's heading its direction, each curve its words.
        assert driver.execute_script("return [...document.querySelectorAll('input')].every((field) => field.labels.length === 1)")
        assert driver.execute_script("return [...document.querySelectorAll('th')].every((cell) => cell.scope)")
        assert driver.execute_script("return [...document.querySelectorAll('svg')].every((curve) => curve.getAttribute('aria-label'))")
        assert driver.execute_script("return document.documentElement.lang") == "en"


def test_the_theme_is_switched_and_kept(server):
    with browser() as driver:
        open_console(driver, server)
        ground = "return getComputedStyle(document.body).backgroundColor"
        light = driver.execute_script(ground)
        button = driver.find_element(By.ID, "theme")
        for _ in range(2):
            button.send_keys(Keys.ENTER)
        assert button.text == "Theme: dark" and driver.execute_script(ground) != light
        driver.refresh()
        wait(driver, lambda it: text(it, "#theme") == "Theme: dark")
        assert driver.execute_script(ground) != light


def test_nothing_moves_for_who_does_not_want_it(server):
    with browser(reduced_motion=True) as driver:
        open_console(driver, server)
        moving = driver.execute_script("""
            return [...document.querySelectorAll('*')].filter((element) =>
              getComputedStyle(element).transitionDuration !== '0s').length""")
        assert moving == 0


def test_without_scripts(server):
    with browser(javascript=False) as driver:
        driver.get(f"http://{server.admin}/console")
        shown = driver.find_element(By.CSS_SELECTOR, "table.plain").text
        assert "State ready" in shown and "Live holds" in shown


def test_signing_in(binary, tmp_path):
    tokens = tmp_path / "tokens"
    token = holdfast(binary, "token", "create", "--caller", "ops", "--role", "admin", "--file", tokens).stdout.strip()
    with Server(binary, "--tokens", tokens) as server, browser() as driver:
        driver.get(f"http://{server.admin}/console")
        assert driver.current_url.endswith("/console/login")
        driver.find_element(By.ID, "token").send_keys("wrong", Keys.ENTER)
        wait(driver, lambda it: "not known" in text(it, ".problem"))
        driver.find_element(By.ID, "token").send_keys(token, Keys.ENTER)
        wait(driver, lambda it: text(it, "#badge-live") == "live")
        assert driver.execute_script("return document.cookie") == ""
        # The token goes, and with it the session: the page asks for another.
        tokens.write_text("")
        wait(driver, lambda it: it.current_url.endswith("/console/login"), 60)


# Of every text that is shown: what is below the contrast that is wanted.
CONTRAST = """
const wanted = arguments[0];
const channels = (color) => color.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, index) => sum + v * [0.2126, 0.7152, 0.0722][index], 0);
function ground(element) {
  for (let it = element; it; it = it.parentElement) {
    const color = channels(getComputedStyle(it).backgroundColor);
    if (color.length < 4 || color[3] > 0) return color;
  }
  return [255, 255, 255];
}
const poor = [];
for (const element of document.querySelectorAll('body *')) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || element.closest('noscript') || !element.getClientRects().length) continue;
  const [a, b] = [light(channels(getComputedStyle(element).color)), light(ground(element))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < wanted) poor.push(`${element.tagName} ${element.textContent.trim().slice(0, 30)} ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
}
return poor;
"""
