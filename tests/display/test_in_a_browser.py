"""Cards in headless Chromium: what is seen, in light and dark, and that nothing is fetched."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest
from langchain_core.messages import HumanMessage

from langchain_ttl_history import SessionBuffer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed, so no card was drawn")

# It reports on the card once it is drawn. The card itself has no script.
PROBE = """
<script>
const colours = (element) => [getComputedStyle(element).color, getComputedStyle(element).backgroundColor];
const report = document.createElement("pre");
report.id = "report";
const card = document.querySelector(".ttlh");
const seen = (words) => {
  const walker = document.createTreeWalker(card, NodeFilter.SHOW_TEXT);
  while (walker.nextNode())
    if (walker.currentNode.data.includes(words))
      return walker.currentNode.parentElement.checkVisibility({ contentVisibilityAuto: true });
  return null;
};
const words = ["The first result", "The second question", "Sun in Rome", "The long answer ends", "user opened billing"];
report.textContent = JSON.stringify({
  seen: Object.fromEntries(words.map((each) => [each, seen(each)])),
  text: card.innerText,
  card: colours(card),
  ran: document.documentElement.dataset.ran ?? null,
  title: document.title,
  remote: performance.getEntriesByType("resource").map((each) => each.name),
  wide: card.scrollWidth > card.clientWidth,
});
document.body.append(report);
</script>
"""


class Seen(NamedTuple):
    """What Chromium made of a card."""

    report: Any
    connections: list[str]
    """What it opened a connection for."""


@pytest.fixture
def draw(tmp_path: Path) -> Callable[..., Seen]:
    def draw(html: str, *, dark: bool = False, width: int = 900) -> Seen:
        page, log = tmp_path / "page.html", tmp_path / "net.json"
        page.write_text(f'<!doctype html><meta charset="utf-8"><title></title><body>{html}{PROBE}', encoding="utf-8")
        done = subprocess.run(
            [
                CHROMIUM or "",
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                f"--user-data-dir={tmp_path / 'profile'}",
                f"--window-size={width},900",
                # 0 is dark, 1 is light.
                f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                f"--log-net-log={log}",
                "--dump-dom",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
        )
        report = re.search(r'<pre id="report">(.*?)</pre>', done.stdout, re.DOTALL)
        assert report is not None, done.stdout + done.stderr
        return Seen(json.loads(unescape(report[1])), connections(log))

    return draw


def connections(log: Path) -> list[str]:
    """The addresses a net log of Chromium tells of connections to."""
    record = json.loads(log.read_text(encoding="utf-8"))
    kind = record["constants"]["logEventTypes"]["TCP_CONNECT_ATTEMPT"]
    events = [event for event in record["events"] if event["type"] == kind]
    return [event["params"]["address"] for event in events if "address" in event.get("params", {})]


def contrast(colours: list[str]) -> float:
    """The contrast ratio of two CSS colours as WCAG defines it, from 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(each) for each in colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A server, and the paths it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_conversation_is_seen_and_what_was_cut_and_what_is_long_is_folded(
    buffer: SessionBuffer, draw: Callable[..., Seen]
) -> None:
    report = draw(buffer.history("alice", "support")._repr_html_()).report
    assert report["seen"] == {
        "The first result": False,
        "The second question": True,
        "Sun in Rome": True,
        "The long answer ends": False,
        "user opened billing": True,
    }
    assert "3 earlier messages, cut by the window" in report["text"]


def test_what_was_said_is_text_and_runs_nothing(buffer: SessionBuffer, draw: Callable[..., Seen]) -> None:
    report = draw(buffer.history("alice", "support")._repr_html_()).report
    assert "The second question <script>document.documentElement.dataset.ran = 1</script>" in report["text"]
    assert report["ran"] is None
    assert report["title"] == ""


def test_no_card_opens_a_connection(
    buffer: SessionBuffer, draw: Callable[..., Seen], server: tuple[str, list[str]]
) -> None:
    url, asked = server
    hostile = f"""<img src="{url}/a"><link rel="stylesheet" href="{url}/b"><style>@import "{url}/c"</style>"""
    history = buffer.history(f"<img src='{url}/d'>", f"<img src='{url}/e'>")
    history.add_messages([HumanMessage([hostile, {"type": "image", "url": f"{url}/f"}])])
    info = buffer.info(f"<img src='{url}/d'>", f"<img src='{url}/e'>")
    seen = draw("".join(each._repr_html_() for each in (history, info, buffer)))
    assert seen.connections == []
    assert seen.report["remote"] == []
    assert asked == []


def test_a_connection_would_be_noticed(draw: Callable[..., Seen], server: tuple[str, list[str]]) -> None:
    url, asked = server
    seen = draw(f'<div class="ttlh"><img src="{url}/a"></div>')
    assert asked == ["/a"]
    assert seen.connections == [url.removeprefix("http://")]


@pytest.mark.parametrize("kind", ["history", "info", "buffer"])
def test_a_card_is_light_in_the_light_and_dark_in_the_dark(
    buffer: SessionBuffer, draw: Callable[..., Seen], kind: str
) -> None:
    shown: dict[str, Any] = {
        "history": buffer.history("alice", "support"),
        "info": buffer.info("alice", "support"),
        "buffer": buffer,
    }
    html = shown[kind]._repr_html_()
    light, dark = draw(html).report["card"], draw(html, dark=True).report["card"]
    assert contrast(light) > 7
    assert contrast(dark) > 7
    assert contrast([light[1], dark[1]]) > 7


def test_a_card_fits_a_narrow_window(buffer: SessionBuffer, draw: Callable[..., Seen]) -> None:
    history = buffer.history("a" * 200, "b" * 200)
    history.add_messages([HumanMessage("c" * 400)])
    for each in (history, buffer.info("a" * 200, "b" * 200), buffer.history("alice", "support")):
        assert not draw(each._repr_html_(), width=500).report["wide"]
