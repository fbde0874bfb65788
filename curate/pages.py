"""HTML pages from templates, and the one way in which what others wrote gets into them.

Every value is escaped by the environment, and a page says itself that it loads nothing and runs no script but its own.
tests/test_pages.py reads all templates: a value stands in text or in a quoted attribute, and nowhere else.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup


def shown(value: Any) -> str:
    """A cell's text: None is left empty."""
    return "" if value is None else format(value, {int: ",", float: ".3g"}.get(type(value), ""))


def policy(script: str = "") -> Markup:
    """The element that forbids a page to load anything, and to run any script but this one."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = f"script-src 'sha256-{digest}'; " if script else ""
    rules = f"default-src 'none'; {own}img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
    return Markup('<meta http-equiv="Content-Security-Policy" content="{}">').format(Markup(rules))


def pages(folder: Path) -> Environment:
    """The templates of a folder, and `page.css`, which they all begin with."""
    loader = FileSystemLoader([folder, Path(__file__).parent])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["shown"] = shown
    environment.globals["policy"] = policy
    return environment


def render(template: Path, **values: Any) -> bytes:
    """The page of a template in UTF-8. Lone surrogates, which it cannot hold, are shown as their escapes."""
    page = pages(template.parent).get_template(template.name).render(values)
    return page.encode("utf-8", "backslashreplace") + b"\n"
