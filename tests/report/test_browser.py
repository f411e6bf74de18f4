"""The pages in a real browser, Debian's Chromium: what it asks for, complains of and cuts off."""

from __future__ import annotations

import base64
import io
import json
import shutil

import numpy as np
import pytest
from needs import skip_without
from PIL import Image
from sweep_on_disk import CLASSIFICATION, HOSTILE, REGRESSION, build, own, plan_runs

from lossbench import cli
from lossbench.report import page as report_page

pytestmark = pytest.mark.exhaustive

WIDTHS = (400, 900, 1600)
PAGES = ("report", "hostile", "card")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium driven from here, which logs what it asks for and complains of."""
    try:
        from selenium import webdriver
    except ImportError:
        skip_without("browser", "selenium is not installed: pip install selenium")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        skip_without(
            "browser", "Chromium or its driver is missing: apt-get install chromium-driver"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=programs[1])
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()
    service.stop()


@pytest.fixture(scope="module")
def paths(browser, tmp_path_factory):
    """The pages on disk."""
    place = tmp_path_factory.mktemp("pages")
    tasks = {("digits", "mlp"): CLASSIFICATION, ("diabetes", "linear"): REGRESSION}
    hostile = own(dict.fromkeys([*HOSTILE, "cross_entropy"], "proper"), seeds=6, rates=(0.01, 0.1))
    card = place / "card.html"
    assert cli.main(["losses", "focal", "--card", str(card)]) == cli.DONE
    return {
        "report": report_page.write(build(place / "sweep", plan_runs(tasks))),
        "hostile": report_page.write(build(place / "hostile", hostile)),
        "card": card,
    }


@pytest.fixture(params=PAGES)
def page(browser, paths, request):
    """A page loaded from disk, with empty logs before it."""
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.get(paths[request.param].as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    return browser


def resize(browser, width):
    """A window of that many pixels, narrower than a real one could be."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def by_night(browser, *, media="screen", scheme="dark"):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    wish = {"media": media, "features": features}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)


def pixels(browser):
    """The whole page as the browser draws it, [height, width, 3]."""
    wish = {"format": "png", "captureBeyondViewport": True}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", wish)["data"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB"))


def test_a_page_from_disk_asks_for_nothing_and_complains_of_nothing(page):
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in events if e["method"].endswith("WillBeSent")]
    assert sent == [page.current_url]
    assert page.get_log("browser") == []
    assert page.execute_script("return document.querySelectorAll('svg').length") > 1


BEYOND = """
const hidden = node => node.closest('.scroll, pre');
return [...document.querySelectorAll('main *, body > *')]
  .filter(node => !node.closest('svg') && !hidden(node))
  .filter(node => node.getBoundingClientRect().right > innerWidth + 1)
  .map(node => node.outerHTML.slice(0, 120));
"""


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_its_window(page, width):
    resize(page, width)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert page.execute_script(BEYOND) == []
    shot = pixels(page)
    assert shot.shape[1] == width
    edge = shot[:, -2:].reshape(-1, 3)
    assert (edge == edge[0]).all(), "something is drawn at the very edge of the window"


CUT = """
const inside = (text, frame) => text.left >= frame.left - 2 && text.right <= frame.right + 2
  && text.top >= frame.top - 2 && text.bottom <= frame.bottom + 2;
return [...document.querySelectorAll('svg text')]
  .filter(node => node.getBoundingClientRect().width > 0)
  .filter(node => !inside(node.getBoundingClientRect(),
                          node.closest('svg').getBoundingClientRect()))
  .map(node => node.closest('svg').getAttribute('aria-label').slice(0, 60) + ': '
       + node.textContent);
"""


@pytest.mark.parametrize("width", WIDTHS)
def test_no_word_of_a_figure_is_cut_off(page, width):
    resize(page, width)
    assert page.execute_script(CUT) == []


CONTRASTS = """
const light = color => {
  const part = color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
};
const paper = light(getComputedStyle(document.body).backgroundColor);
const ratio = ink => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
const words = [...document.querySelectorAll('p, td, th, h1, h2, h3, h4, a, li, figcaption')];
return [paper, Math.min(...words.map(node => ratio(light(getComputedStyle(node).color))))];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_stands_out_from_the_paper_by_day_and_by_night(page, scheme):
    by_night(page, scheme=scheme)
    paper, contrast = page.execute_script(CONTRASTS)
    assert paper > 0.9 if scheme == "light" else paper < 0.05
    assert contrast >= 4.5  # WCAG 2.2, level AA


def test_figures_have_other_colours_by_night_than_by_day(page):
    def strokes():
        return page.execute_script(
            "return [...document.querySelectorAll('svg path')].map(p => getComputedStyle(p).stroke)"
        )

    by_night(page, scheme="light")
    day = strokes()
    by_night(page)
    night = strokes()
    assert {*day} != {*night}
    assert sum(one != other for one, other in zip(day, night, strict=True)) > len(day) / 4


def test_a_page_prints_in_black_on_white_and_without_its_menu(page):
    by_night(page, media="print")
    paper, _ = page.execute_script(CONTRASTS)
    assert paper > 0.9
    menus = "return [...document.querySelectorAll('nav')].map(n => getComputedStyle(n).display)"
    assert {*page.execute_script(menus)} <= {"none"}
    page.execute_script("document.querySelectorAll('details').forEach(one => one.open = false)")
    hidden = "return [...document.querySelectorAll('details figure')].filter(f => !f.offsetHeight)"
    assert page.execute_script(hidden) == [], "a folded figure is not printed"
    printed = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF")
    assert len(printed) > 10_000
