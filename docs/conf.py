"""The settings of Sphinx for the documentation site: `nox -s docs`.

The source folder is the repository, so that links between README, docs and examples are the same
on the site and on GitHub.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ipython_pygments_lexers import IPython3Lexer
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

from llmwit_magic import __version__

project = "llmwit-magic"
author = "The llmwit-magic contributors"
project_copyright = author
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton"]
root_doc = "docs/index"
# On the site, `docs/index.html` is the first page.
include_patterns = ["*.md", "docs/**.md", "examples/*.ipynb"]
exclude_patterns = [".*", "benchmarks", "build", "dist", "llmwit_magic", "output", "tests", "wit"]

# Tests execute the notebooks. The site shows them as they are, since it is built without a model.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # the anchors that GitHub makes
myst_links_external_new_tab = False

nitpicky = True
autodoc_typehints = "none"  # a signature in full would be longer than the text below it
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "model_config"}  # how pydantic makes a record
highlight_language = "none"  # a block without a language is a cell, a line of a shell, or output
default_role = "code"  # docstrings write code between single backticks, as Markdown does

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_root"]  # a page at the top that leads to docs/index.html
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
}


def setup(app: Sphinx) -> None:
    """Blocks of Python may begin with a magic, as those of the notebooks do."""
    app.add_lexer("python", IPython3Lexer)
    app.add_lexer("wit", TextLexer)  # GitHub colours WIT, and Pygments does not know it
    app.connect("build-finished", copy_pictures)


def copy_pictures(app: Sphinx, error: Exception | None) -> None:
    """Copy the pictures of `<picture>` tags, which choose a light or a dark one; Sphinx does not."""
    if not error and app.builder.format == "html":
        for picture in Path(app.confdir).glob("*.png"):
            shutil.copy(picture, Path(app.outdir) / "docs")
