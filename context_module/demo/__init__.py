"""A page to play with saved modules: sliders, pictures or texts, and the Python that makes them."""

from context_module.demo.code import python_code
from context_module.demo.links import read_link, write_link
from context_module.demo.modules import SavedModule, load_modules
from context_module.demo.outputs import Output, make_output
from context_module.demo.serve import serve
from context_module.demo.settings import Settings
from context_module.demo.uploads import Uploads

__all__ = [
    "Output",
    "SavedModule",
    "Settings",
    "Uploads",
    "load_modules",
    "make_output",
    "python_code",
    "read_link",
    "serve",
    "write_link",
]
