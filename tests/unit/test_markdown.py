"""Answers as Markdown: what is shown, what stays text, and where Markdown is used at all."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from pygments.lexers import get_lexer_by_name

from llmwit_magic.contract.wit import InferencingResult, InferencingUsage, TokenInfo
from llmwit_magic.magics import extension
from llmwit_magic.views import highlighting, markdown
from llmwit_magic.views.display import answer_html
from llmwit_magic.views.formulas import is_typeset
from llmwit_magic.views.highlighting import LANGUAGES, highlighted
from llmwit_magic.views.html import Extras
from llmwit_magic.views.links import safe_address
from llmwit_magic.views.markdown import MAX_FORMULAS, MAX_MARKDOWN, markdown_html
from llmwit_magic.views.text import plain
from tests.support.hostile import Page
from tests.support.markdown_texts import REFUSED_LINKS


def shown(text: str) -> str:
    """The HTML of a text without the attributes that carry nothing but looks."""
    markup, problem = markdown_html(text)
    assert not problem
    assert all(line.strip() for line in markup.split("\n"))
    bare = re.sub(r' (?:style|dir|role|aria-level|rel|target)="[^"]*"', "", markup)
    return bare.removeprefix('<div class="llmwit-markdown">').removesuffix("</div>").strip()


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("**a** *b* ~~c~~ `d`",
         "<div><strong>a</strong> <em>b</em> <span>c</span> <code>d</code></div>"),
        ("# a", "<div><b>a</b></div>"),
        ("a\nb", "<div>a<span>\n</span>b</div>"),
        ("- a\n- b", "<ul><li>a</li>\n<li>b</li>\n</ul>"),
        ("3. a", '<ol start="3"><li>a</li>\n</ol>'),
        ("> a", "<blockquote><div>a</div>\n</blockquote>"),
        ("a\n\n---", "<div>a</div>\n<div></div>"),
        ("|a|\n|-|\n|b|", '<div class="llmwit-scrolling"><table><tr><td><b>a</b></td> </tr>\n'
         "<tr><td>b</td> </tr>\n</table></div>"),
        ("```\na\n\n <b>\n```",
         '<div class="highlight llmwit-code"><pre>\na&#10;\n &lt;b&gt;</pre></div>'),
        ("```python\nif\n```",
         '<div class="highlight llmwit-code"><pre>\n<span class="k">if</span></pre></div>'),
        ("[a](http://b.org/c)", '<div>a (<a href="http://b.org/c">http://b.org/c</a>)</div>'),
        ("[](http://b.org)", '<div><a href="http://b.org">http://b.org</a></div>'),
        ("[http://b.org](http://b.org)", '<div><a href="http://b.org">http://b.org</a></div>'),
        ("[a]()", "<div>a</div>"),
        ("![a](http://b.org/c.png)", "<div>[image, not loaded: a, http://b.org/c.png]</div>"),
        ("![](http://b.org/c.png)", "<div>[image, not loaded: http://b.org/c.png]</div>"),
        ("<b>a</b> &lt;i&gt;", "<div>&lt;b&gt;a&lt;/b&gt; &lt;i&gt;</div>"),
        ("[a]: http://b.org", "<div>[a]: http://b.org</div>"),
        ("http://b.org <http://b.org>", "<div>http://b.org &lt;http://b.org&gt;</div>"),
        ("a\r\nb\0", "<div>a<span>\n</span>b␀</div>"),
    ],
)  # fmt: skip
def test_what_markdown_becomes(text: str, markup: str) -> None:
    """Each part has its element. Raw HTML, definitions and bare addresses stay text."""
    assert shown(text) == markup


MATH = '<span class="mathjax_process tex2jax_process">'


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        (r"$a_1 * b_2$", rf"<div>{MATH}$a_1 * b_2$</span></div>"),
        (r"\(a\) \[b\] $$c$$", rf"<div>{MATH}\(a\)</span> {MATH}\[b\]</span> {MATH}$$c$$</span></div>"),
        ("\\[\n= a\n- b\n\\]", f'<div class="llmwit-formula">{MATH}\\[\n= a\n- b\n\\]</span></div>'),
        ("a\n$$\nb\n$$\nc", f'<div>a</div>\n<div class="llmwit-formula">{MATH}$$\nb\n$$</span></div>\n'
         "<div>c</div>"),
        ("- a\n\n  \\[\n  b\n  \\]", '<ul><li><div>a</div>\n<div class="llmwit-formula">'
         f"{MATH}\\[\nb\n\\]</span></div>\n</li>\n</ul>"),
        (r"$a<b\$c$", rf"<div>{MATH}$a&lt;b\$c$</span></div>"),
        ("$5 and $10", "<div>$5 and $10</div>"),
        ("$5-$10", "<div>$5-$10</div>"),
        (r"\$a$ $ a$ $$ $$", "<div>$a$ $ a$ $$ $$</div>"),
        (r"\\(a\\)", r"<div>\(a\)</div>"),
        ("`$a$`", "<div><code>$a$</code></div>"),
        ("$$\na\n\nb\n$$", "<div>$$<span>\n</span>a</div>\n<div>b<span>\n</span>$$</div>"),
        (r"$\href{http://a.org}{b}$", r"<div><code>$\href{http://a.org}{b}$</code></div>"),
    ],
)  # fmt: skip
def test_what_is_a_formula(text: str, markup: str) -> None:
    """Formulas keep their signs for MathJax. Prices, code and commands of other kinds are none."""
    assert shown(text) == markup


@pytest.mark.parametrize(
    "formula",
    [
        r"\frac{a}{b}\,\sqrt[3]{x}", r"\begin{pmatrix} 1 & 2 \\[4pt] 3 & 4 \end{pmatrix}",
        r"\left\{ x \in \mathbb{R} \mid x > 0 \right\}", r"\text{area} = \pi r^2 \quad 50\%",
        r"\lim_{n\to\infty} \sum_{i=1}^{n} \frac{1}{i^2}", "ä^2", r"f'(x) \neq \hat{y}",
    ],
)  # fmt: skip
def test_common_formulas_are_typeset(formula: str) -> None:
    """The commands that people write formulas with are known."""
    assert is_typeset(formula)


@pytest.mark.parametrize(
    "formula",
    [
        r"\href{javascript:evil()}{x}", r"\require{x}", r"\unicode{120}", r"\style{color:red}{x}",
        r"\class{a}{x}", r"\cssId{a}{x}", r"\def\x{y}", r"\newcommand{\x}{y}", r"\let\x\href",
        r"\kern-9em x", r"\hspace{-9em}", r"\phantom{x}", r"\color{white}{x}", r"\tag{x}", r"\label{x}",
        r"\csname href\endcsname", r"\begin{html}x\end{html}", r"\begin x", "a % b", "a $ b", "#1", "^^5c",
        "{", "}", "}{", "{" * 40 + "}" * 40, r"\\[-9em]x", r"\\ *[99em]x", r"\!" * 30, "x" * 3_000, "a\\",
        r"\é", "\\\nx",
    ],
)  # fmt: skip
def test_other_formulas_are_code(formula: str) -> None:
    """What is not known to show a formula alone is not given to MathJax."""
    assert not is_typeset(formula)


def test_only_so_many_formulas_are_typeset() -> None:
    """MathJax would hold the page for long. The other formulas are code."""
    markup = shown("$x$ " * (MAX_FORMULAS + 5))
    assert markup.count(MATH) == MAX_FORMULAS
    assert markup.count("<code>") == 5


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://b.org", "http://b.org"),
        ("HTTPS://B.org:8080/A?b=c#d", "https://b.org:8080/A?b=c#d"),
        ("https://exämple.org/ä b".replace(" b", ""), "https://xn--exmple-cua.org/%C3%A4"),
        ("https://аpple.com", "https://xn--pple-43d.com"),
        ("https://b.org/@x/%20/a:b", "https://b.org/@x/%20/a:b"),
        ('https://b.org/"><b>', "https://b.org/%22%3E%3Cb%3E"),
        ("http://127.0.0.1:8888/x", "http://127.0.0.1:8888/x"),
        ("http://localhost", "http://localhost"),
        ("mailto:a.b+c@b.org", "mailto:a.b+c@b.org"),
    ],
)
def test_an_address_is_shown_as_it_is_read(address: str, shown: str) -> None:
    """Other scripts are shown as the letters that a browser asks for."""
    assert safe_address(address) == shown


@pytest.mark.parametrize("address", REFUSED_LINKS)
def test_other_addresses_are_no_links(address: str) -> None:
    """Neither alone nor in Markdown."""
    assert safe_address(html.unescape(address)) is None
    for text in (f"[a]({address})", f"[a](<{address}>)", f"![a]({address})", f"<{address}>"):
        markup = shown(text)
        assert "<a" not in markup
        assert "not loaded" not in markup


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_languages_are_known_to_pygments(language: str) -> None:
    """Each name has a lexer, and what it colours is the code."""
    assert get_lexer_by_name(language)
    code = 'x = 1 # <b>\n\n"a" & b\n'
    for given_code in (code, code.strip(), "\n\n" + code):
        markup = highlighted(given_code, language)
        assert Page(markup).shown == given_code


def test_code_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of an unknown language, long code, and code that takes too long are plain."""
    assert highlighted("if <", "brainfuck") == "if &lt;"
    assert highlighted("if " * 10_000, "python") == "if " * 10_000
    monkeypatch.setattr(highlighting, "SECONDS", -1)
    assert highlighted("if <", "python") == "if &lt;"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a" * (MAX_MARKDOWN + 1), "more than 100,000 characters"),
        (">" * 50 + "a", "nested too deep"),
        ("\n".join("  " * depth + "- a" for depth in range(50)), "nested too deep"),
        ("- a\n" * 24_000, "100,000 parts"),
        ("|a" * 50 + "\n" + "|-" * 50 + "\n" + "|\n" * 350, "it is too large"),
    ],
)
def test_what_is_too_much_is_text(text: str, why: str) -> None:
    """And one line says why."""
    markup, problem = markdown_html(text)
    assert markup == ""
    assert problem.startswith("shown as text: ")
    assert why in problem
    page = answer_html(result_of(text), Extras(), "markdown")
    assert problem in page
    assert "llmwit-markdown" not in page


def test_a_parser_that_fails_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is text then, as it would be without Markdown."""

    def fail() -> None:
        raise RecursionError

    monkeypatch.setattr(markdown, "_parser", fail)
    assert markdown_html("a") == (
        "",
        "shown as text: it cannot be read as Markdown (RecursionError)",
    )


@given(st.text(alphabet="ab \n*_`~[]()!<>#-+=|\\$&;:1.\0\t", max_size=200))
def test_no_text_makes_an_element_of_its_own(text: str) -> None:
    """Whatever is written, the elements are closed, and nothing is a link or has a handler."""
    markup, problem = markdown_html(text)
    page = Page(markup)
    assert page.open == []
    assert not problem or not markup
    assert {name for name, _ in page.elements} <= {
        "div", "pre", "span", "b", "table", "tr", "td", *markdown.MORE_ELEMENTS - {"a"},
    }  # fmt: skip


# Where ---------------------------------------------------------------------------


def result_of(text: str, **more: object) -> InferencingResult:
    usage = InferencingUsage()
    return InferencingResult(text=text, finish_reason=None, usage=usage, **more)  # type: ignore[arg-type]


TOKEN = TokenInfo(id=1, bytes=b"**a**", logprob=-1, rank=0, top=())


@pytest.mark.parametrize(
    ("rendering", "more", "is_markdown"),
    [
        ("auto", {}, False),
        ("auto", {"chat": True}, True),
        ("auto", {"chat": True, "tokens": (TOKEN,)}, False),
        ("auto", {"chat": True, "status": "running"}, False),
        ("auto", {"chat": True, "status": "interrupted"}, True),
        ("text", {"chat": True}, False),
        ("markdown", {}, True),
        ("markdown", {"tokens": (TOKEN,)}, True),
    ],
)
def test_where_markdown_is_shown(
    rendering: str, more: dict[str, object], is_markdown: bool
) -> None:
    """Finished answers of chats, unless their tokens are recorded, or what was asked for.

    The text is there in any case, and the plain text is as the model wrote it.
    """
    result = result_of("**a**", **more)
    markup = answer_html(result, Extras(), rendering)
    assert ("<strong>a</strong>" in markup) is is_markdown
    text = Page(markup).shown
    assert "**a**" in text
    assert ("<details><summary>" in markup) is is_markdown
    assert plain(result).startswith("**a**\n── ")


@pytest.mark.parametrize(
    ("text", "has_marks"),
    [("Paris it is!\n\n2 < 3 & $5", False), ("a *b*", True), ("1. a", True), ("&lt;", True),
     (r"\*a\*", True), ("# a", True), ("$a$", True), ("---", True), ("~~a~~", True), ("a\n\n    b", True)],
)  # fmt: skip
def test_an_answer_without_marks_is_text(text: str, has_marks: bool) -> None:
    """There is nothing to switch to, so no text is folded under it."""
    assert ("<details" in answer_html(result_of(text), Extras(), "markdown")) is has_marks


def test_an_empty_answer_is_no_markdown() -> None:
    """There is nothing to show, and nothing to fold."""
    assert "<details" not in answer_html(result_of(""), Extras(), "markdown")


def test_results_are_shown_as_the_notebook_says(caplog: pytest.LogCaptureFixture) -> None:
    """A result at the end of a cell follows `InferMagics.render`."""
    shell = InteractiveShell()
    extension.load(shell)
    try:
        result = result_of("**a**", chat=True)
        formatter = shell.display_formatter.formatters["text/html"]
        assert "<strong>" in formatter(result)
        shell.run_line_magic("config", "InferMagics.render = 'text'")
        assert "<strong>" not in formatter(result)
        shell.run_line_magic("config", "InferMagics.render = 'html'")
        assert "expected any of ['auto', 'markdown', 'text']" in caplog.text
    finally:
        extension.unload(shell)
