"""The HTML page of verification reports: complete, and well-formed and safe for any names and values."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from tests.test_architecture import modules_after
from turbopilot.base.kl_divergence import Perplexity
from turbopilot.render.scale import Scale
from turbopilot.render.svg import Bar, Cloud, Labels, Line, Mark, Spot, bars, escaped, plot
from turbopilot.render.verify_page import render
from turbopilot.render.verify_plots import MOST_POINTS, running_median, thinned, token_type
from turbopilot.render.words import number, share, with_error
from turbopilot.verify.criteria import Failure, VerifyLimits
from turbopilot.verify.metrics import Positions, summary
from turbopilot.verify.report import Continuation, Finding, TokenResult, VerifyReport, VerifySeconds
from turbopilot.verify.source import Window
from turbopilot.verify.tensor_errors import TensorError

HOSTILE = "<script>alert(1)</script>\"'&\x00\x1b[31m\u202e\ud800\n.gguf"
VOID = {"meta", "br", "hr", "img", "input", "link"}


def positions(n: int = 40, *, kl: float = 1e-3, seed: int = 0) -> Positions:
    """Return positions of a context window and two short windows, one after another."""
    rng = np.random.default_rng(seed)
    long = max(1, n // 2)
    window = np.where(np.arange(n) < long, 0, 1 + (np.arange(n) - long) % 2)
    choice = rng.integers(0, 5, n)
    reference = rng.normal(size=(n, 3))
    return Positions(
        window=window, position=np.where(window == 0, np.arange(n), (np.arange(n) - long) // 2),
        next_id=rng.integers(0, 5, n), finite=np.ones(n, bool), error=np.full(n, 1e-6), power=np.ones(n),
        max_abs=np.full(n, 0.01), max_abs_token=choice, kl=kl * rng.random(n),
        choice=choice, other=np.where(np.arange(n) % 10 == 3, (choice + 1) % 5, choice),
        clear=np.ones(n, bool), in_top=np.ones(n, bool), loss=rng.random(n), other_loss=rng.random(n),
        sample=np.stack([reference, reference + 0.01], axis=2),
    )  # fmt: skip


WINDOWS = (
    Window("context", "the long one", tuple(range(20)), range(20)),
    Window("code", "c_ring", tuple(range(10)), range(10)),
    Window("fim", "go with a hole", tuple(range(10)), range(10)),
)


def tensor(name: str, relative: float, **more: Any) -> TensorError:
    return TensorError(name, "Q8_0", (4, 8), f"model.{name}", relative, 0.01, 1e-4, **more)


def report(p: Positions | None = None, **changes: Any) -> VerifyReport:
    p = positions() if p is None else p
    m = summary(p)
    limits = VerifyLimits(1e-5, 1e-2, 0.5, "twice what noise does")
    made = VerifyReport(
        candidate="/models/some.gguf", reference="/models/checkpoint",
        reference_files={"model.safetensors": "ab" * 32}, architecture="phi2", type_name="Q8_0",
        bits_per_weight=8.5, n_bytes=5_750_000, n_vocab=5, n_ctx=20, context_tested=20,
        tokens=TokenResult(3, 3, 99, None), windows=WINDOWS, metrics=m, positions=p,
        by_kind={"context": m, "code": m, "fim": m},
        continuations=(
            Continuation("c_ring", 48, 48, None, "", ""),
            Continuation("go", 48, 7, 0.25, " left", " right"),
        ),
        noise=None, tanh_gelu=None, limits=limits, failures=(), seconds=VerifySeconds(1.0, 2.0, 3.0, 4.0),
        tokens_per_second=1234.0, versions={"torch": "2.4"}, date="2026-01-02T03:04:05+00:00",
        tensors=(tensor("a.weight", 5e-5), tensor("b.weight", 0.0)),
    )  # fmt: skip
    return replace(made, **changes)


FAILED: dict[str, Any] = {
    "failures": (Failure("nmse", "NMSE is far too large"),),
    "findings": (Finding("swapped", "tensors hold each other's weights: a and b"),),
}


def text_of(token: int) -> str:
    return ["    ", " name", "12", "(", "x="][token]


class Checker(HTMLParser):
    """HTML parser that fails if a tag is not closed properly, and collects tags and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "|".join(self.texts)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def drawings(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(s) for s in re.findall(r"<svg .*?</svg>", page, re.DOTALL)]


def checked(page: str) -> Checker:
    """Parse a page and check what must hold for every page."""
    page.encode("utf-8")
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">\n')
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open
    allowed = {
        "xmlns", "class", "role", "aria-label", "aria-hidden", "viewBox", "d", "x", "y", "cx", "cy", "r",
        "text-anchor", "points", "transform", "width", "height",
    }  # fmt: skip
    for drawing in drawings(page):
        for shape in drawing.iter():
            # Colours come only from CSS classes, and all coordinates are finite numbers.
            assert set(shape.attrib) <= allowed
            for key in set(shape.attrib) - {"class", "role", "aria-label"}:
                assert not re.search("nan|inf", shape.attrib[key], re.IGNORECASE), shape.attrib
    assert not checker.named("script")
    assert not checker.named("link")
    for _, attributes in checker.tags:
        assert not [k for k in attributes if k.startswith("on") or k in ("src", "style")]
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in page
    assert "@import" not in page
    ids = [a["id"] for _, a in checker.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in checker.named("a")} <= {f"#{i}" for i in ids}
    return checker


def test_page_forbids_scripts_and_loading() -> None:
    metas = checked(render([report()])).named("meta")
    (policy,) = [m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_page_has_every_section() -> None:
    page = render([report(**FAILED)], text_of)
    seen = checked(page).text
    for words in (
        "Failed.", "Failed checks", "NMSE is far too large", "Probable causes", "a and b", "All metrics",
        "By kind of window", "Greedy continuations", "7 of 48", "' left'", "KL by position, code and prompt windows",
        "KL by position, full-context window", "Logits of reference and candidate", "by token type",
        "Error by tensor", "All 2 tensors", "All 3 windows", "Files and versions", "ab" * 32, "torch 2.4",
        "2026-01-02T03:04:05+00:00", "twice what noise does", "5.75 MB", "1,234",
    ):  # fmt: skip
        assert words in seen, words


def test_metrics_are_shown_with_their_limits() -> None:
    limits = VerifyLimits(1e-5, 1e-9, 0.5, "made up")
    cells = re.sub(r"<[^>]*>", "|", render([report(limits=limits)]))
    assert re.search(r"NMSE\|+1\.00e-06\|+≤ 1\.00e-05\|+ok", cells)
    assert re.search(r"mean KL, nats\|+\d\.\d\de-04\|+≤ 1\.00e-09\|+failed", cells)


def test_passed_page_without_token_texts_has_fewer_sections() -> None:
    page = render([report()])
    seen = checked(page).text
    assert "Passed." in seen
    assert "Failed checks" not in seen
    assert "Probable causes" not in seen
    assert "by token type" not in page
    assert "by token type" in render([report()], text_of)


def test_hostile_names_are_escaped() -> None:
    assert escaped("变量 é 🦀 \x1b<") == "变量 é 🦀 \\x1b&lt;"
    wrong = TensorError(HOSTILE, HOSTILE, (1,), HOSTILE, np.inf, np.inf, 0.0, "missing", HOSTILE)
    names = ("candidate", "reference", "architecture", "type_name", "date")
    texts: dict[str, Any] = dict.fromkeys(names, HOSTILE)
    hostile = report(
        **texts,
        reference_files={HOSTILE: HOSTILE},
        windows=tuple(replace(w, name=HOSTILE) for w in WINDOWS),
        continuations=(Continuation(HOSTILE, 48, 7, 0.25, HOSTILE, HOSTILE),),
        limits=VerifyLimits(1e-5, 1e-2, 0.5, HOSTILE),
        failures=(Failure(HOSTILE, HOSTILE),),
        findings=(Finding(HOSTILE, HOSTILE),),
        versions={HOSTILE: HOSTILE},
        by_kind={HOSTILE: summary(positions())},
        tensors=(wrong,),
    )
    for reports in ([hostile], [hostile, report()]):
        page = render(reports, lambda _: HOSTILE)
        checked(page)
        assert "<script" not in page
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e\ud800-\udfff]", page)
        assert r"\x00\x1b[31m\u202e\ud800\n.gguf" in page


def odd() -> dict[str, VerifyReport]:
    p = positions()
    some = np.arange(40) % 3 == 0
    extreme = positions()
    extreme.kl[:4] = [np.inf, np.nan, 1e308, 5e-324]
    extreme.sample[:3, 0] = [[1e308, -1e308], [np.nan, 0], [np.inf, -np.inf]]
    nowhere = replace(p, finite=np.zeros(40, bool))
    infinite = (
        tensor("gone", np.inf, cause="missing", detail="is missing from the file"),
        tensor("nan", np.nan, cause="other_weights"),
        TensorError("more", "", (), "", np.inf, np.inf, 0.0, "surplus", "is not expected"),
    )
    return {
        "no difference": report(replace(p, kl=np.zeros(40), sample=np.zeros((40, 3, 2)))),
        "one position": report(positions(1)),
        "two positions": report(positions(2)),
        "some not finite": report(replace(p, finite=~some, kl=np.where(some, np.nan, p.kl))),
        "none finite": report(nowhere),
        "extreme": report(extreme),
        "no metrics": report(metrics=None, positions=None, by_kind={}, limits=None, windows=()),
        "metrics only": report(positions=None, windows=()),
        "no limits": report(limits=None),
        "no continuations": report(continuations=None),
        "no tensors": report(tensors=None),
        "infinite tensors": report(tensors=infinite),
        "exact tensors": report(tensors=(tensor("a", 0.0),)),
        "far apart": report(continuations=(Continuation("x", 48, 0, 1e9, "a", "b"),)),
        "empty": report(n_bytes=0, bits_per_weight=0.0, tokens_per_second=0.0, reference_files={}),
    }


@pytest.mark.parametrize("name", odd())
def test_unusual_reports_make_a_valid_page(name: str) -> None:
    odd_one = odd()[name]
    checked(render([odd_one], text_of))
    checked(render([odd_one, report()], text_of))
    checked(render([odd_one, odd_one]))


def test_unusual_reports_are_explained() -> None:
    pages = {name: checked(render([r])).text for name, r in odd().items()}
    assert "The KL divergence is 0 at all of 40 positions." in pages["no difference"]
    assert "The candidate's logits are not finite at any position." in pages["none finite"]
    assert "the logits could not be compared" in pages["no metrics"]
    assert "There are no limits" in pages["no limits"]
    assert "exactly the expected values" in pages["exact tensors"]
    assert "missing" in pages["infinite tensors"]


def test_positions_without_finite_logits_are_marked() -> None:
    assert 'class="cloud bad"' in render([odd()["some not finite"]])
    assert 'class="cloud bad"' not in render([report()])


def test_large_comparison_makes_a_small_page() -> None:
    page = render([report(positions(20_000))])
    most = max(d.get("d", "").count("M") for s in drawings(page) for d in s.iter())
    assert most == MOST_POINTS
    assert len(page) < 400_000
    assert page == render([report(positions(20_000))])


def test_only_the_worst_tensors_are_drawn_but_all_are_listed() -> None:
    many = tuple(tensor(f"t{i}.weight", 1e-6 * i) for i in range(100, 0, -1))
    page = render([report(tensors=many)])
    groups = [ElementTree.tostring(g, "unicode") for s in drawings(page) for g in s]
    assert sum('class="bar' in g for g in groups) == 30
    assert "t1.weight" in page


def test_wrong_tensor_is_marked_with_its_cause() -> None:
    page = render([report(tensors=(tensor("a", 0.5, cause="swapped"), tensor("b", 5e-5)))])
    classes = [
        s.get("class") for d in drawings(page) for s in d.iter() if "bar" in s.get("class", "")
    ]
    assert classes == ["bar bad", "bar k1"]
    assert "0.500, swapped" in page


def test_overview_comes_first_and_failed_files_are_open() -> None:
    reports = [
        report(candidate="a/one.gguf", n_bytes=10_000_000),
        report(candidate="a/two.gguf", **FAILED),
        report(candidate="a/three.gguf", metrics=None, positions=None, limits=None),
    ]
    page = render(reports)
    seen = checked(page)
    files = [d for d in seen.named("details") if d.get("class") == "file"]
    assert ["open" in d for d in files] == [False, True, False]
    assert page.index("Mean KL by file size") < page.index('<details class="file"')
    words = seen.text
    for name in ("one.gguf", "two.gguf", "three.gguf"):
        assert name in words
    assert "1 of 3 files failed (two.gguf)" in words
    assert page.count("ab" * 32) == 1
    assert {"h1", "h2", "h3"} <= {tag for tag, _ in seen.tags}


def test_page_without_reports_is_rejected() -> None:
    with pytest.raises(ValueError, match="needs at least one report"):
        render([])


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        [], [0.0], [5.0], [-5.0], [np.nan, np.inf], [1e-320, 1e308], [-1e308, 1e308], [3.0, 3.0], [1e-9, 2e-9],
        [0.9, 1.1], [0.0, 1024.0], [4e-8, 0.6], [1e15, 1e15 + 1], [1e-30, 2e-30],
    ],
)  # fmt: skip
def test_scales_contain_their_values_and_have_ticks(values: list[float], log: bool) -> None:
    scale = Scale.of(values, log=log)
    assert np.isfinite([scale.low, scale.high]).all()
    assert scale.low < scale.high
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 12
    assert len({label for _, label in ticks}) == len(ticks)
    inside = [scale.at(v) for v, _ in ticks]
    assert inside == sorted(inside)
    assert all(0 <= scale.at(v) <= 1 for v in (*values, np.inf, -np.inf, np.nan, 0.0))


def test_scale_is_proportional() -> None:
    assert Scale(0, 10).at(2.5) == 0.25
    assert Scale(1e-4, 1, log=True).at(1e-3) == pytest.approx(0.25)
    assert next(label for _, label in Scale.of([2e-6, 0.3], log=True).ticks()) == "10⁻⁶"
    assert [label for _, label in Scale.of([0, 1000]).ticks()][-1] == "1,000"


def test_marks_are_drawn_at_their_coordinates() -> None:
    axis = ("v", Scale(0.0, 1.0))
    marks: list[Mark] = [
        Cloud([0, 1], [0, 1], "k1", "cloud"), Line([0, np.nan, 1], [0, 0.5, 1], "k2"),
        Spot(1.0, 0.0, "k3", "here"), Spot(np.nan, 0.0, "k3", "nowhere"),
    ]  # fmt: skip
    drawn = plot("title", axis, axis, marks, height=166.0)
    assert 'd="M66 114h0M424 14h0"' in drawn
    assert 'points="66,114 424,14"' in drawn
    assert 'cx="424" cy="114"' in drawn
    assert "nowhere" not in drawn
    assert "cloud</li>" in drawn


def test_labels_do_not_overlap() -> None:
    axis = ("v", Scale(0.0, 1.0))
    drawn = plot("t", axis, axis, [Labels([0.1, 0.1, 0.1], [0.5, 0.5, 0.5], ["a", "b", "c"])])
    heights = [float(y) for y in re.findall(r'class="label" x="\S+" y="(\S+)"', drawn)]
    assert len(heights) == 3
    assert (np.diff(heights) >= 16).all()


def test_bars_have_lengths_and_limits() -> None:
    both = [Bar("half", 0.5, "", "", "k1", 0.25), Bar("all", np.inf, "", "", "bad")]
    drawn = bars("t", both, Scale(0, 1))
    assert re.findall(r'class="bar \S+" .*? width="(\S+)"', drawn) == ["220", "440"]
    assert 'd="M110 18v12"' in drawn


def test_thinning_keeps_the_ends() -> None:
    assert thinned(5, 10).tolist() == [0, 1, 2, 3, 4]
    kept = thinned(10_000, 100)
    assert (len(kept), kept[0], kept[-1]) == (100, 0, 9_999)


def test_running_median_ignores_outliers() -> None:
    y = np.ones(800)
    y[::100] = 1e6
    x, median = running_median(np.arange(800), y)
    assert (median == 1).all()
    assert (np.diff(x) > 0).all()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("    ", "whitespace"), ("\n\t", "whitespace"), (" self", "words"), ("_x1", "words"), ("été", "words"),
        ("42", "numbers"), (" 0x1f", "numbers"), ("1.5", "numbers"), ("):", "punctuation"), (" =", "punctuation"),
        ("->\n", "punctuation"), ("x=", "other"), ("<fim_prefix>", "other"), ("\ufffd", "other"), ("", "other"),
    ],
)  # fmt: skip
def test_token_type_of_a_text(text: str, kind: str) -> None:
    assert token_type(text) == kind


def test_numbers_are_shortened_without_hiding_differences() -> None:
    assert [number(v) for v in (0.0, 4.1e-8, 0.02, 11.07, 4578.0, 1e9, np.inf)] == [
        "0", "4.10e-08", "0.0200", "11.1", "4,578", "1.00e+09", "not finite",
    ]  # fmt: skip
    # Only an exact 1 is shown as 100 %.
    assert [share(v) for v in (1.0, 0.99999, 0.5)] == ["100.00 %", "99.999 %", "50.00 %"]
    assert with_error(Perplexity(0.99842, 0.00055)) == "0.99842 ± 0.00055"
    assert with_error(Perplexity(1e200, np.inf)) == "1.00e+200 ± not finite"


def test_page_rendering_imports_no_model_libraries() -> None:
    heavy = modules_after("import turbopilot.render.verify_page")
    assert heavy & {"torch", "llama_cpp", "transformers", "gguf"} == set()
