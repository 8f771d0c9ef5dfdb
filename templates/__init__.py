"""flota.templates: Go's text/template over plain data, as Docker uses it for output and for specs.

`Template` reads and renders (engine.py over parser.py). It knows nothing of flota: what a template may ask for is the
business of whoever renders it.
"""

from flota.templates.engine import Row, Strings, Template, to_json, to_text
from flota.templates.parser import TemplateError

__all__ = ["Row", "Strings", "Template", "TemplateError", "to_json", "to_text"]
