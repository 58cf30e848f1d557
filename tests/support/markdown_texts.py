"""Answers in Markdown: one with all that is shown, and ones that would command a page."""

from __future__ import annotations

ANSWER = r"""# A plan

Some **bold**, *slanted* and ~~wrong~~ words, `inline <code>`, and a line
that goes on. See [the docs](https://example.org/a?b=1&c=2 "title") or [mail](mailto:a@example.org).

## Steps

1. First
2. Second
   - with *details*
   - and more

> A quotation with $x^2 + y^2 = z^2$ and a price of $5 or $10.

```python
import math

def area(radius: float) -> float:
    # the area of a circle, in a line that is longer than a narrow page, so it has to scroll
    return math.pi * radius**2 if radius > 0 else float("nan")
```

| Setting | Meaning | Default | Valid values | Sweeps | Configurable | More words |
|:--|:--|--:|:-:|---|---|---|
| `top_k` | most probable tokens | 40 | 0 … 2³²−1 | yes | yes | so that the table is wide |
| `seed` | repeat a run | none | any number | yes | no | a second row |

The result is \(\frac{a}{b}\), and

$$
\begin{aligned} E &= mc^2 \\ F &= ma \end{aligned}
$$

![A picture](https://evil.example/picture.png)

<script>document.title='owned'</script><img src=x onerror="document.title='owned'">

---
The end.
"""

REFUSED_LINKS = (
    "javascript:evil()", "JaVaScRiPt:evil()", "java&#10;script:evil()", "&#106;avascript:evil()",
    "javascript&colon;evil()", "vbscript:evil()", "data:text/html,<script>evil()</script>",
    "data:image/svg+xml;base64,PHN2Zz4=", "file:///etc/passwd", "blob:http://evil/1", "//evil/x",
    "/lab?reset", "../x", "#id", "?a=b", "command:evil", "vscode://evil", "ftp://evil/x", "http:evil",
    "http:///evil", "http://user@evil/", "http://good.org@evil/", "http://good.org\\@evil/",
    "http://ev%69l/", "http://2130706433/", "http://0x7f.1/", "http://127.1/", "http://010.0.0.1/",
    "http://[::1]/", "http://evil:port/", "http://a..b/", "mailto:a@b.org?body=secret",
    "mailto:a@b.org,c@d.org", "https://", "http://a b/", "ht&Tab;tp://evil/", "\x01http://evil/",
)  # fmt: skip
"""Addresses that no link may have: they stay text."""

HOSTILE_MARKDOWN = {
    "elements": "<iframe src=//evil></iframe>\n\n<svg onload=evil()>\n\n<style>*{display:none}</style>"
                "\n\n<div onclick=evil() style='position:fixed'>x</div>\n\n<!-- c -->\n\n<?php ?>"
                "\n\n<!DOCTYPE x>\n\n<![CDATA[x]]>\n\n<base href=//evil><meta http-equiv=refresh>",
    "links": "\n\n".join(f"[a]({link}) [b](<{link}>) ![c]({link})" for link in REFUSED_LINKS),
    "bare links": "http://evil www.evil.com <http://evil/> <javascript:evil()> a@evil.com <a@evil.com>",
    "definitions": "[a]: javascript:evil()\n[b]: http://evil 'title'\n\n[a] [x][b] ![c][b]\n\n[^1]: n",
    "titles": "[a](http://b.org '\" onmouseover=\"evil()') ![a](http://b.org/x.png \"\" onerror=evil())",
    "quotes": "[a](http://b.org/\"onclick=\"evil()) [a](http://b.org/'><script>evil()</script>)",
    "direction": "[\u202egpj.exe](http://b.org/\u202egpj) &#x202e;x&#8238;y\u2066z `\u202e`",
    "a link of a link": "[http://good.org](http://bad.org) [![x](http://b.org/i.png)](http://bad.org)",
    "languages": "```\"><script>evil()</script>\nx\n```\n~~~python\" onclick=evil()\nx\n~~~\n```html\n"
                 "<script>evil()</script>\n```",
    "formulas": r"$\href{javascript:evil()}{x}$ \(\href{http://evil}{x}\) $\require{evil}$ "
                r"$$\unicode{x202e}$$ \[\style{position:fixed}{x}\] $\class{a}{x}$ $\cssId{a}{x}$ "
                r"$\def\x{\href}\x{javascript:evil()}{y}$ $\newcommand{\frac}{x}$ $\kern-99em x$ "
                r"$\csname href\endcsname{http://evil}{x}$ $\includegraphics{http://evil/x.png}$ "
                r"$\color{white}x$ $\phantom{x}$ $\\[-99em]x$ $a%b$ $\text{<img src=x onerror=evil()>}$"
                "\n\n$$\n\\url{http://evil}\n$$\n\n$" + r"\!" * 30 + "x$ $" + "{" * 40 + "}" * 40 + "$",
    "classes": "# title {#id .class onclick=evil()}\n\n[a]{.x} ::: warning\n:::\n\n- [x] done",
    "brackets": "[" * 100_000,
    "images": "![" * 50_000,
    "quotations": ">" * 100_000,
    "backticks": "`" * 100_000,
    "runs of backticks": "a".join("`" * length for length in range(1, 440)),
    "stars": "*a _b " * 16_000,
    "an unclosed fence": "```python\n" + "x = 1\n" * 10_000,
    "deep quotations": "\n".join(">" * depth + " a" for depth in range(1, 200)),
    "deep lists": "\n".join("  " * depth + "- a" for depth in range(200)),
    "many lists": "- a\n" * 25_000,
    "a wide table": "|".join("a" * 3_000) + "\n" + "|".join("-" * 3_000) + "\n" + "|\n" * 2_000,
    "many formulas": "$x$ " * 20_000,
    "formulas without ends": "\\[\n" * 16_000 + "$a " * 8_000 + "\\(" * 8_000,
    "nested links": "[a" * 20_000 + "](http://b.org)" * 2_000,
    "megabytes": "**a** " * 400_000,
    "NUL and other controls": "a\0b **\0** `\0`\n\n```\n\0\x1b[31m\n```\n\r\x0b\x0c\u2028\ufeff",
    "half a character": "\ud800 [\ud800](http://b.org/\ud800) `\udfff`",
    "hostile code": "```javascript\n" + "/" * 9_000 + "\n```\n```perl\n" + "qq{" * 3_000 + "\n```\n```ruby\n"
                    + "<<A " * 3_000 + "\n```\n```latex\n" + "$" * 9_000 + "\n```",
}  # fmt: skip
"""Texts that would run code, load something, hide where a link goes, or take all the time."""
