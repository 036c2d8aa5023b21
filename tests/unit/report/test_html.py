from __future__ import annotations

import builtins
import functools
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from helium_edge.errors import MissingDependencyError, UsageError
from helium_edge.parity.baseline import compare_with_baseline
from helium_edge.report import render_html, render_markdown, write_reports
from helium_edge.report.charts import snr_by_layer
from helium_edge.report.html import _cut, _parting
from helium_edge.report.numbers import error, figure, percent
from tests.helpers.chromium import Page, chromium, find_chromium
from tests.unit.report.documents import failing, over_budget, passing, with_failures


class Reader(HTMLParser):
    """Tags, ids and text of a page; every tag must be closed."""

    VOID = frozenset({"meta", "link", "br", "path", "circle", "use"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags[tag] += 1
        values = dict(attrs)
        self.ids.update([values["id"]] if "id" in values else [])
        self.links += [
            values[name] for name in ("href", "src", "xlink:href", "srcset", "action") if name in values
        ]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def full() -> Any:
    """A document in which every part of the page has something to show."""
    document = failing()
    then = passing()
    then["environment"]["onnxruntime"] = "1.27.0"
    document["baseline"] = compare_with_baseline(document, then, source="base.json").document().to_json()
    return with_failures(document)


@functools.cache
def page_of(make: Any) -> str:
    return render_html(make())


@pytest.mark.parametrize("make", [passing, failing, over_budget, full])
def test_a_page_is_well_formed_and_asks_for_nothing(make: Any) -> None:
    page = Reader(page_of(make))
    assert not [name for name, times in page.ids.items() if times > 1]
    assert {link for link in page.links if not link.startswith("#")} == {"data:,"}
    assert page.tags["script"] == 0
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))


def test_a_page_shows_every_part() -> None:
    text = Reader(page_of(full)).text
    for words in ("Do not release", "What failed, and what to do", "Where the error begins", "layer 3, k_proj",
                  "KLD, token by token", "Along the conversation", "By language", "What they write", "Limits",
                  "All figures", "Languages", "The cache", "Since the baseline", "weights.bin", "1.28.0",
                  "Cost of this check", "131 tokens at once", "by the CoreML interpreter"):  # fmt: skip
        assert words in text, words


def test_a_page_of_the_least_document_is_made() -> None:
    document = passing()
    document |= {
        "levels": {},
        "checks": [],
        "greedy": [],
        "subject": {},
        "environment": {},
        "text": {},
        "cost": None,
    }
    text = Reader(render_html(document)).text
    assert "What was checked holds." in text
    assert text.count("not run") == 4


def test_figures_that_are_no_numbers_are_shown() -> None:
    document = passing()
    level = document["levels"]["L3"]
    for figures in (level["overall"], *level["languages"].values()):
        for name in figures:
            figures[name] = 9 if name in ("tokens", "nonfinite", "ambiguous") else None
    level["gates"][1] |= {"measured": None, "passed": False}
    level["histogram"]["counts"] = [0] * len(level["histogram"]["counts"])
    level["by_position"][0]["kld_mean"] = None
    level |= {"failures": ["mean_kld is nan, the limit is 0.06"], "passed": False}
    assert "NaN or infinite" in Reader(render_html(with_failures(document))).text


def test_foreign_text_stays_text() -> None:
    document = passing()
    document["greedy"][0] |= {"candidate": "<script>alert(1)</script> \u202eabc\x1b[31m", "first_divergence": 0}
    document["subject"]["bundle"] = "</title><img src=x>"
    document["levels"]["L3"]["languages"] = {"<i>$x^2$": document["levels"]["L3"]["languages"]["en"]}
    document["levels"]["L2"]["languages"] = document["levels"]["L3"]["languages"]
    page = render_html(document)
    assert not {"script", "img", "i>$x^2$"} & set(Reader(page).tags)
    assert "&lt;script&gt;" in page
    assert not {"\u202e", "\x1b"} & set(page)


def test_the_same_document_gives_the_same_page() -> None:
    assert render_html(full()) == page_of(full)


def test_no_placeholder_of_a_colour_is_left() -> None:
    page = page_of(full)
    assert re.findall(r"#0[1-8]0[1-8]0[1-8]", page) == []
    assert {"var(--l1)", "var(--l2)", "var(--l3)", "var(--bad)"} <= set(re.findall(r"var\(--\w+\)", page))


def test_the_chart_of_the_layers_marks_the_guilty_op_only() -> None:
    layers = failing()["layers"]
    assert "layer 3, k_proj" in snr_by_layer(layers)
    for row in layers["rows"]:
        row["guilty"] = False
    assert "k_proj" not in snr_by_layer(layers)
    assert snr_by_layer({"rows": [], "guilty": None}) == ""


@pytest.mark.parametrize(
    ("one", "other", "cuts"),
    [
        ("the red house", "the rough house", (("the ", "red", " house"), ("the ", "rough", " house"))),
        ("same", "same and more", (("", "same", ""), ("", "same", " and more"))),
        ("same ", "same and more", (("same ", "\u2205", ""), ("same ", "and", " more"))),
        ("a  b", "a\nb", (("a", "  b", ""), ("a", "\nb", ""))),
    ],
)  # fmt: skip
def test_texts_are_cut_at_the_word_that_differs(one: str, other: str, cuts: Any) -> None:
    at = _parting(one, other)
    assert (_cut(one, at, "parted"), _cut(other, at, "parted")) == cuts


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (figure(0.0363626), "0.0364"),
        (figure(42.64), "42.6"),
        (figure(1234.5), "1,234"),
        (figure(3.1e-10), "3.1\u00d710\u207b\u00b9\u2070"),
        (figure(None), "\u2013"),
        (error(0.0363626, 0.00111599), ("0.0364", "0.0011")),
        (error(0.0363626, 0.00055), ("0.0364", "0.0006")),
        (error(1.0371, 0.0048), ("1.037", "0.005")),
        (error(1.0, 0.0), ("1.00", "")),
        (error(None, 0.1), ("\u2013", "")),
        (percent(0.8628, 0.0107), ("86.3 %", "1.1")),
        (percent(0.8628, 0.0053), ("86.3 %", "0.5")),
        (percent(2e-6, 1e-7), ("< 0.01 %", "")),
    ],
)
def test_figures_have_as_many_digits_as_their_error_allows(shown: object, text: object) -> None:
    assert shown == text


def test_markdown_has_the_verdict_and_a_row_for_each_level() -> None:
    text = render_markdown(full())
    assert text.startswith("### \u274c Do not release")
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| L")] == [
        "| L0", "| L1", "| L2", "| L3", "| L3 arm64"
    ]  # fmt: skip
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {7}
    assert render_markdown(passing()).startswith("### \u2705 This export")


# -- files


def test_reports_are_written_whole(tmp_path: Path) -> None:
    page, junit, markdown = (tmp_path / name for name in ("a.html", "a.xml", "a.md"))
    page.write_text("old", encoding="utf-8")
    assert write_reports(failing(), html=page, junit=junit, markdown=markdown) == [page, junit, markdown]
    assert page.read_text(encoding="utf-8") == page_of(failing)
    assert {path.name for path in tmp_path.iterdir()} == {"a.html", "a.xml", "a.md"}


def test_a_place_that_cannot_be_written_is_told_before(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        write_reports(passing(), junit=tmp_path / "none" / "a.xml")
    with pytest.raises(UsageError, match="is a folder"):
        write_reports(passing(), junit=tmp_path / "a.xml", html=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_without_the_extra_nothing_is_written(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return load(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match=package) as caught:
        write_reports(passing(), html=tmp_path / "a.html", junit=tmp_path / "a.xml")
    assert ".[report]" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


# -- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Any:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium on this machine")
    with chromium(program, tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("make", [passing, full], ids=["passing", "failing"])
def test_a_browser_shows_the_page(browser: Page, tmp_path: Path, make: Any, width: int, dark: bool) -> None:
    file = tmp_path / "page.html"
    file.write_text(page_of(make), encoding="utf-8")
    browser.open(file, width=width, dark=dark)
    assert browser.requests() == [file.as_uri()]
    assert browser.complaints() == []
    # Nothing but tables and the chart of the layers may be wider than the window, and they scroll by themselves.
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    outside = browser.evaluate(
        "[...document.querySelectorAll('main *')].filter(one => !one.closest('.scroll, .wide-scroll')"
        f" && one.getBoundingClientRect().right > {width} + 1).map(one => one.outerHTML.slice(0, 80))"
    )
    assert outside == []
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(15, 18, 22)" if dark else "rgb(244, 245, 247)")
    text = browser.evaluate("getComputedStyle(document.querySelector('svg.chart text')).fill")
    lines = browser.evaluate("document.querySelectorAll('svg.chart').length")
    assert text not in ("rgb(0, 0, 0)", background)
    assert lines == (4 if make is full else 3)
    assert browser.screenshot().startswith(b"\x89PNG")


def test_a_browser_prints_the_page(browser: Page, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page_of(full), encoding="utf-8")
    browser.open(file, width=1200)
    assert browser.call("Page.printToPDF", printBackground=True)["data"].startswith("JVBERi")
