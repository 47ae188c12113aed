"""report.html: one file that opens from disk, loads nothing and can send nothing.

Invariant: whatever a text, a label or a name holds, it stays text. The template escapes every value, the charts' data
are JSON without a single "<", and the page's policy runs no script but the two whose hashes it names.
"""

import base64
import hashlib
import json
import re
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from pipeline.reporting.charts import CONFIG
from pipeline.reporting.document import Document, all_figures
from pipeline.reporting.formats import excerpt

TEMPLATES = "templates"
MAX_TEXT = 1_000  # characters of a text shown; all of it is in items.parquet
MAX_LABEL = 300  # characters of a label or a choice shown beside its score
HIDDEN = re.compile(r"[\x00-\x08\x0b-\x0d\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def render_page(document: Document) -> str:
    """The whole document as HTML."""
    bundle, script, style = chart_bundle(), _resource("report.js"), _resource("report.css")
    specs = {f.id: f.spec for section in document.sections for f in all_figures(section.blocks)}
    template = _environment().get_template("report.html")
    return template.render(
        document=document,
        policy=content_policy([bundle, script], style),
        style=Markup(style),
        bundle=Markup(bundle),
        script=Markup(script),
        chart_data=embed_json({"config": CONFIG, "charts": specs}),
    )


def content_policy(scripts: list[str], style: str) -> str:
    """The page's Content-Security-Policy: these scripts and this style sheet, and nothing from anywhere."""
    allowed = " ".join(_source_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_source_hash(style)}; base-uri 'none'; "
        "form-action 'none'"
    )


def _source_hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def embed_json(value: object) -> Markup:
    """JSON for a script element: no "<", so that nothing in it can end the element or open a comment."""
    return Markup(json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


@cache
def chart_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script (0.9 MB), from the library that Altair itself takes them from."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # The parser reads "\r\n" as "\n", and then the script would not be the one that the policy names.
    return bundle.replace("\r\n", "\n").replace("</script", "<\\/script")


def _resource(name: str) -> str:
    return resources.files("pipeline.reporting").joinpath(TEMPLATES, name).read_text(encoding="utf-8")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.reporting", TEMPLATES),
        autoescape=True,
        finalize=visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["excerpt"] = excerpt
    environment.globals |= {"max_text": MAX_TEXT, "max_label": MAX_LABEL}
    return environment


def visible(value: Any) -> Any:
    """A text with each control character or lone surrogate, which HTML forbids, as the replacement character."""
    return HIDDEN.sub("\N{REPLACEMENT CHARACTER}", value) if type(value) is str else value
