r"""Formulas in an answer: `$…$`, `$$…$$`, `\(…\)` and `\[…\]`, which front ends typeset by MathJax.

MathJax's commands can do more than show a formula. They make links without a visible address
(`\href`), load code (`\require`), write over the rest of the page (`\kern`), hide text
(`\phantom`) and change other formulas (`\def`). So a formula is typeset only if it consists of
commands that are known to do none of this. Any other formula is shown as code.
"""

from __future__ import annotations

import html
import re

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

MATH = "mathjax_process tex2jax_process"
"""Classes that let MathJax typeset an element inside of one that it leaves alone."""
MAX_FORMULA = 2_000
"""The most characters of a formula."""
MAX_LINES = 40
"""The most lines of a formula that stands by itself."""
MAX_BRACES = 30
"""How deep the braces of a formula may be nested."""
MAX_BACKSTEPS = 20
"""The most negative spaces of a formula. Many of them would write over what stands before it."""
_CLOSERS = {"$$": "$$", r"\[": r"\]", r"\(": r"\)"}

_COMMANDS = """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa varkappa lambda mu nu
    xi omicron pi varpi rho varrho sigma varsigma tau upsilon phi varphi chi psi omega digamma Gamma
    Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega aleph beth gimel hbar hslash ell wp Re Im imath
    jmath partial nabla infty emptyset varnothing prime backprime angle measuredangle triangle square
    forall exists nexists neg lnot top bot surd checkmark complement eth
    frac dfrac tfrac cfrac sqrt root of binom dbinom tbinom choose over atop stackrel overset underset
    overline underline overbrace underbrace overrightarrow overleftarrow widehat widetilde hat tilde bar
    vec dot ddot dddot acute grave breve check mathring boxed substack not
    sum prod coprod int iint iiint oint bigcup bigcap bigsqcup bigvee bigwedge bigodot bigotimes bigoplus
    biguplus lim limsup liminf sup inf max min arg det dim exp gcd hom ker lg ln log Pr deg
    sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan limits nolimits displaylimits
    displaystyle textstyle scriptstyle scriptscriptstyle
    mod bmod pmod pod operatorname
    pm mp times div cdot ast star circ bullet cap cup uplus sqcap sqcup vee wedge lor land setminus wr
    diamond oplus ominus otimes oslash odot dagger ddagger amalg smallsetminus ltimes rtimes Box Diamond
    leq le geq ge ll gg prec succ preceq succeq sim simeq approx approxeq cong equiv propto asymp doteq
    subset supset subseteq supseteq subsetneq supsetneq sqsubset sqsupset sqsubseteq sqsupseteq in ni
    notin owns neq ne vdash dashv models mid nmid parallel nparallel perp bowtie smile frown lt gt
    leqslant geqslant lesssim gtrsim lessgtr triangleq coloneqq therefore because iff implies impliedby
    leftarrow rightarrow leftrightarrow Leftarrow Rightarrow Leftrightarrow longleftarrow longrightarrow
    longleftrightarrow Longleftarrow Longrightarrow Longleftrightarrow to gets mapsto longmapsto uparrow
    downarrow updownarrow Uparrow Downarrow Updownarrow nearrow searrow swarrow nwarrow hookleftarrow
    hookrightarrow rightharpoonup rightharpoondown leftharpoonup leftharpoondown rightleftharpoons
    rightsquigarrow xrightarrow xleftarrow
    left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm
    langle rangle lfloor rfloor lceil rceil lvert rvert lVert rVert vert Vert lbrace rbrace lbrack rbrack
    backslash ldots cdots vdots ddots dots dotsc dotsb dotsm dotsi colon quad qquad
    mathrm mathbf mathit mathsf mathtt mathbb mathcal mathfrak mathscr boldsymbol text textbf textit
    textrm texttt textsf mbox rm bf it cal
    notag nonumber hline begin end
"""
COMMANDS = frozenset(_COMMANDS.split())
"""The commands of a formula that is typeset."""
SIGNS = frozenset(",;:!>| {}%#&_$\\")
r"""What may follow a backslash where no letter does: spaces, braces, the end of a line."""
_ENVIRONMENTS = """
    align align* aligned alignat array bmatrix Bmatrix cases equation equation* gather gather*
    gathered matrix pmatrix smallmatrix split vmatrix Vmatrix multline multline*
"""
ENVIRONMENTS = frozenset(_ENVIRONMENTS.split())
_COMMAND = re.compile(r"\\(?:([A-Za-z]+)|(.)|$)", re.DOTALL)
_IN_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*(?:\{([^{}]*)\})?")
_FAR_ROW = re.compile(r"\\\\\s*\*?\s*\[(?!\d\d?(pt|px|mm|ex)\])")
"""A row whose distance from the one before it may be negative, or a page long."""


def is_typeset(formula: str) -> bool:
    """Whether the text between the signs of a formula is one that MathJax may get."""
    if len(formula) > MAX_FORMULA or _FAR_ROW.search(formula):
        return False
    if formula.count(r"\!") > MAX_BACKSTEPS:
        return False
    for word, sign in _COMMAND.findall(formula):
        if word not in COMMANDS if word else sign not in SIGNS:
            return False
    if not all(name in ENVIRONMENTS for name in _IN_ENVIRONMENT.findall(formula)):
        return False
    rest = _COMMAND.sub(" ", formula)
    if "$" in rest or "%" in rest or "#" in rest or "^^" in rest:
        return False  # the end of the formula, a comment, an argument, a character by its number
    depth = 0
    for sign in re.findall(r"[{}]", rest):
        depth += 1 if sign == "{" else -1
        if not 0 <= depth <= MAX_BRACES:
            return False
    return depth == 0


def formula_html(token: Token, typeset: bool) -> str:
    """A formula with its signs, for MathJax to typeset, or as code where it may not."""
    opener = token.markup
    whole = html.escape(f"{opener}{token.content}{_CLOSERS.get(opener, opener)}")
    if not typeset or not is_typeset(token.content):
        return f"<code>{whole}</code>"
    return f'<span class="{MATH}">{whole}</span>'


def enable_formulas(parser: MarkdownIt) -> None:
    """Let the parser find formulas, before it takes a backslash or an underscore in one for its own."""
    parser.inline.ruler.before("escape", "formula", _inline)
    parser.block.ruler.before(
        "fence", "formula_block", _block, {"alt": ["paragraph", "blockquote", "list"]}
    )


def _inline(state: StateInline, silent: bool) -> bool:
    """A formula within a paragraph. A single dollar follows Pandoc's rule, so prices are none."""
    source, start = state.src, state.pos
    opener = source[start : start + 2]
    if opener in _CLOSERS:
        closer = _CLOSERS[opener]
    elif opener[:1] == "$" and opener[1:].strip():
        opener = closer = "$"
    else:
        return False
    begin = start + len(opener)
    limit = min(state.posMax, begin + MAX_FORMULA + len(closer))
    end = source.find(closer, begin, limit)
    while opener == "$" and end > 0 and source[end - 1] == "\\":
        end = source.find(closer, end + 1, limit)
    after = end + len(closer)
    if end <= begin or not source[begin:end].strip():
        return False
    if opener == "$" and (source[end - 1].isspace() or source[after : after + 1].isdigit()):
        return False
    if not silent:
        token = state.push("formula", "", 0)
        token.markup, token.content = opener, source[begin:end]
    state.pos = after
    return True


def _block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A formula on lines of its own, which Markdown might take for a heading or a list."""
    place = state.bMarks[start] + state.tShift[start]
    opener = state.src[place : place + 2]
    if opener not in ("$$", r"\[") or state.is_code_block(start):
        return False
    closer = _CLOSERS[opener]
    for line in range(start, min(end, start + MAX_LINES)):
        if state.isEmpty(line) or (line > start and state.sCount[line] < state.blkIndent):
            return False
        begin = place + 2 if line == start else state.bMarks[line]
        if not state.src[begin : state.eMarks[line]].rstrip().endswith(closer):
            continue
        text = state.getLines(start, line + 1, state.blkIndent, False).strip()
        content = text[2:-2]
        if not content.strip() or closer in content:
            return False
        if not silent:
            token = state.push("formula_block", "", 0)
            token.block, token.markup, token.content = True, opener, content
            token.map = [start, line + 1]
            state.line = line + 1
        return True
    return False
