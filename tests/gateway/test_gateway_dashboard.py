"""The dashboard in a real browser: what a person sees of a conversation that was compressed, and the switch.

One Chromium for all of it, because starting it is what takes the time.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the gateway's extra is not installed")

import httpx
from PIL import Image

from gateway.browser import Browser, chromium
from gateway.serving import Upstream, gateway_server, until, upstream_server
from gateway.test_gateway import LONG, PATHS, PROSE, images, request
from vist.gateway.server import Gateway

UUID = "123e4567-e89b-12d3-a456-426614174000"
HOSTILE = "<script>window.caught = 1</script><img src=x onerror='window.caught = 1'>"
LONG_NAME = "an-organisation/" + "a-model-whose-name-never-ends-" * 6

# Text whose contrast with what is behind it is below 4.5 (WCAG 2.1, 1.4.3), with the ratio.
CONTRAST = """
const numbers = colour => colour.match(/[0-9.]+/g).map(Number);
const light = colour => numbers(colour).slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
const behind = element => {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor, alpha = numbers(colour)[3];
    if (alpha === undefined || alpha === 1) return colour;
  }
  return 'rgb(255, 255, 255)';
};
const faint = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const element = walk.currentNode.parentElement;
  if (!walk.currentNode.textContent.trim()) continue;
  const both = [getComputedStyle(element).color, behind(element)].map(light).sort((a, b) => b - a);
  const ratio = (both[0] + 0.05) / (both[1] + 0.05);
  if (ratio < 4.5) faint.push([ratio, element.outerHTML.slice(0, 80)]);
}
"""
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
PAGES = """
const boxes = {}, images = [...document.images];
for (const image of images) { image.scrollIntoView(); await image.decode(); }
scrollTo(0, 0);
for (const [name, selector] of [['text', 'pre'], ['pages', 'img']]) {
  const { left, right, top, bottom } = document.querySelector(selector).closest('.box').getBoundingClientRect();
  boxes[name] = { left, right, top, bottom };
}
return {
  boxes, said: document.body.innerText, title: document.title,
  sizes: images.map(image => [image.naturalWidth, image.naturalHeight]), alts: images.map(image => image.alt),
  text: document.querySelector('pre').textContent,
  marked: [...document.querySelectorAll('mark')].map(e => e.textContent),
  kept: [...document.querySelectorAll('td code')].map(e => e.textContent),
};
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def places(browser: Browser) -> Iterator[tuple[Upstream, Gateway, str]]:
    with upstream_server() as (upstream, address), gateway_server(address) as (gateway, own):
        yield upstream, gateway, own


def ask(own: str, path: str, text: str, model: str | None = None, **headers: str) -> httpx.Response:
    body = request(path, text) | ({"model": model} if model else {})
    return httpx.post(own + path, json=body, headers=headers, trust_env=False, timeout=120)


def test_before_the_first_request_it_says_how_to_make_one(browser, places) -> None:
    browser.look(1280, 800, "light")
    browser.open(places[2] + "/")
    said = browser.tell("return document.body.innerText")
    assert f"OPENAI_BASE_URL={places[2]}/v1" in said and f"ANTHROPIC_BASE_URL={places[2]}" in said


def test_a_person_sees_what_was_saved_the_pages_beside_the_text_and_what_was_kept(browser, places, tmp_path) -> None:
    upstream, gateway, own = places
    upstream.forget()
    text = f"Order {UUID}. {HOSTILE} {PROSE[:9000]}"
    answer = ask(own, PATHS[2], text)
    until(lambda: len(gateway.recent.newest()) == 1, "not seen")
    number = answer.headers["x-vist-request"]
    before, after = (int(answer.headers[f"x-vist-{name}"]) for name in ("before", "after"))
    browser.look(1280, 800, "light")
    browser.open(own + "/")
    said = browser.tell(f"{CONTRAST} return [document.body.innerText, faint, {FITS}]")
    assert f"{before - after:,}\ntokens saved" in said[0] and number in said[0] and said[1:] == [[], True]
    browser.click(f'a[href="/vist/requests/{number}"]')
    page = browser.tell(PAGES)
    sent = images(upstream.requests[-1].json)
    assert number in page["title"] and page["sizes"] == [list(size_of(png)) for png in sent] and len(sent) >= 1
    assert page["text"] == text and UUID in page["marked"] and UUID in page["kept"]
    assert page["alts"][0] == f"page 1 of {len(sent)}" and f"{before:,} tokens before" in page["said"]
    assert page["boxes"]["text"]["right"] <= page["boxes"]["pages"]["left"]  # beside
    assert abs(page["boxes"]["text"]["top"] - page["boxes"]["pages"]["top"]) < 10
    browser.screenshot(tmp_path / "request.png")
    with Image.open(tmp_path / "request.png") as shot:
        assert shot.width == 1280 and shot.height > 600 and len(shot.convert("L").getcolors(256) or ()) > 50
    browser.look(390, 844, "dark")
    page = browser.tell(PAGES)
    assert page["boxes"]["text"]["bottom"] <= page["boxes"]["pages"]["top"]  # one below the other
    assert browser.tell(f"{CONTRAST} return [faint, {FITS}, window.caught ?? null]") == [[], True, None]
    assert browser.faults == [] and {got.method for got in upstream.requests} == {"POST"}  # no stray request went on


def size_of(png: bytes) -> tuple[int, int]:
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def test_long_names_refusals_and_failures_are_readable_on_a_small_phone(browser, places) -> None:
    upstream, gateway, own = places
    before = len(gateway.recent.newest())
    asked = (
        (PATHS[0], {"model": LONG_NAME}, "no image-token rule"),
        (PATHS[0], {"x-vist-policy": "nonsense=1"}, "nonsense=1"),
        (PATHS[1], {"x-test": "500"}, "500"),
        (PATHS[1], {"x-vist-bypass": "1"}, "bypassed"),
    )
    for path, options, _ in asked:
        ask(own, path, LONG, **options)
    until(lambda: len(gateway.recent.newest()) == before + len(asked), "not seen")
    failed = next(seen.event for seen in gateway.recent.newest() if seen.event.status == "failed")
    for scheme in ("light", "dark"):
        browser.look(320, 700, scheme)
        browser.open(own + "/")
        said, faint, fits = browser.tell(f"{CONTRAST} return [document.body.innerText, faint, {FITS}]")
        assert all(words.lower() in said.lower() for _, _, words in asked) and (faint, fits) == ([], True)
    browser.open(f"{own}/vist/requests/{failed.id}")
    assert browser.tell(f"{CONTRAST} return [document.body.innerText.includes('nonsense=1'), faint, {FITS}]") == [
        True,
        [],
        True,
    ]
    browser.open(own + "/vist/requests/none")
    assert "not remembered" in browser.tell("return document.body.innerText")
    browser.click('a[href="/"]')
    assert browser.tell("return document.body.innerText").startswith("vist gateway")


def test_the_switch_works_by_a_click(browser, places) -> None:
    upstream, gateway, own = places
    browser.look(1280, 800, "light")
    browser.open(own + "/")
    for turn, status in (("off", "off"), ("on", "compressed")):
        assert browser.tell("return document.querySelector('button').innerText") == f"Turn it {turn}"
        browser.click("button")
        assert f"Rewriting is {turn}" in browser.tell("return document.body.innerText")
        assert browser.tell("return location.pathname") == "/"
        assert ask(own, PATHS[0], LONG).headers["x-vist-status"] == status
