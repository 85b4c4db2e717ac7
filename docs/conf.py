"""The site: Sphinx reads the pages, the docstrings, and what `options`, `api` and `plain` write at build time."""

import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import api  # noqa: E402 (beside this file)
import options  # noqa: E402
import plain  # noqa: E402

project = "context_module"
author = project_copyright = "the authors of context_module"
release = metadata.version("context-module")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
extensions += ["commands", "formulas", "offline", "plain", "references"]  # beside this file
html_theme = "furo"
html_title = f"context_module {release}"
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
smartquotes = False  # "--flag" is not "–flag"

# what a link, a formula or a reference in a docstring leads to must be there: with -W, all warnings are errors
nitpicky = True
default_role = "py:obj"  # `name` in a docstring
myst_enable_extensions = ["colon_fence", "dollarmath"]  # colon_fence for pages that are made; no other page has it
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_use_rtype = False
napoleon_preprocess_types = False
toc_object_entries_show_parents = "hide"


def setup(app):
    def make(app):
        options.write(HERE / "generated" / "options")
        api.write(HERE / "generated" / "api")
        plain.write(HERE / "generated")

    app.connect("builder-inited", make)
