"""report.html: one file that opens from disk, loads nothing and can send nothing.

Invariant: whatever a text, a label or a name holds, it stays text. The template escapes every value, data are JSON
without a single "<", and the page's policy runs no script but those whose hashes it names.
"""

import base64
import hashlib
import json
from functools import cache, partial
from importlib import resources
from importlib.metadata import version
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from pipeline.reporting.charts import CONFIG, Spec
from pipeline.reporting.document import Document, all_figures, find_items
from pipeline.reporting.formats import excerpt, visible
from pipeline.reporting.item_data import fit_items
from pipeline.storing.cache import cached_text

TEMPLATES = "templates"
SNIPPET = "window.vegaEmbed = vegaEmbed;"  # what the bundle of charts is made for
SCRIPTS = ("tables.js", "charts.js", "items.js")  # modules, each with names of its own
MAX_BYTES = 3_000_000  # of a page: items are left out beyond it ...
LEAST_ROOM = 100_000  # ... but so much there is for them, whatever else it holds
FORM = 20_000  # bytes of the fields that items are chosen by, at most
MAX_TEXT = 300  # characters of a text shown where there are no scripts
MAX_LABEL = 100  # characters of a label or a choice beside its score there
SEPARATORS = {0x2028: " ", 0x2029: " "}  # Vega writes names into expressions, in which a line may not end


def render_page(document: Document) -> str:
    """The whole document as HTML."""
    specs = {f.id: f.spec for section in document.sections for f in all_figures(section.blocks)}
    bundle, style = chart_bundle() if specs else "", _resource("report.css")
    scripts = [_resource(name) for name in SCRIPTS]
    render = partial(
        _environment().get_template("report.html").render,
        document=document,
        policy=content_policy([bundle, *scripts] if bundle else scripts, style),
        style=Markup(style),
        bundle=Markup(bundle),
        scripts=[Markup(script) for script in scripts],
        chart_data=embed_json(share_datasets(specs)),
    )
    page = render(items=None)
    if (items := find_items(document)) is None:
        return page
    room = MAX_BYTES - len(page.encode()) - FORM
    return render(items=fit_items(items, max(LEAST_ROOM, room)))


def share_datasets(specs: dict[str, Spec]) -> dict[str, Any]:
    """The charts with the data that several of them show held once, to six digits; Altair names data by their hash."""
    datasets = {
        name: [{key: float(f"{v:.6g}") if isinstance(v, float) else v for key, v in row.items()} for row in rows]
        for spec in specs.values()
        for name, rows in spec["datasets"].items()
    }
    charts = {id: {key: value for key, value in spec.items() if key != "datasets"} for id, spec in specs.items()}
    written = json.dumps({"config": CONFIG, "datasets": datasets, "charts": charts}, ensure_ascii=False)
    shared: dict[str, Any] = json.loads(written.translate(SEPARATORS))
    return shared


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
    """Vega, Vega-Lite and Vega-Embed as one script (0.9 MB), from the library that Altair itself takes them from.

    It takes that a second to put them together, so they are kept in the user's cache.
    """
    made_of = version("vl-convert-python"), SNIPPET
    make = partial(vl_convert.javascript_bundle, SNIPPET)
    bundle = cached_text(f"vega-embed-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}", make)
    # The parser reads "\r\n" as "\n", and then the script would not be the one that the policy names.
    return bundle.replace("\r\n", "\n").replace("</script", "<\\/script")


def _resource(name: str) -> str:
    return resources.files("pipeline.reporting").joinpath(TEMPLATES, name).read_text(encoding="utf-8")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.reporting", TEMPLATES),
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["excerpt"] = excerpt
    environment.filters["json"] = embed_json
    environment.globals |= {"max_text": MAX_TEXT, "max_label": MAX_LABEL}
    return environment
