"""Makes the API reference from the docstrings, as HTML pages: `python docs/reference.py [FOLDER]`."""

import importlib
import re
import sys
import warnings
from pathlib import Path

import pdoc

FRAMEWORKS = ("torch", "jax", "lightning", "transformers", "accelerate", "keras", "skorch", "native")
MODULES = (
    "gradguard",
    "gradguard.testing",
    "gradguard.writers",
    *(f"gradguard.integrations.{framework}" for framework in FRAMEWORKS),
)


def main(folder: Path) -> None:
    """Write the pages of all modules that can be imported here, and name the others.

    Raises:
        UserWarning: A public name does not exist, or the generator warns of something else.
    """
    names = [name for name in MODULES if is_importable(name)]
    others = "|".join(map(re.escape, names))
    pdoc.render.configure(docformat="google", show_source=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pdoc.pdoc(*names, f"!(?!({others})$)", output_directory=folder)
    left_out = [name for name in MODULES if name not in names]
    sys.stdout.write("".join(f"Left out, since its framework is not installed: {name}\n" for name in left_out))
    index = folder / "index.html"
    links = "".join(f'<li><a href="{name.replace(".", "/")}.html">{name}</a></li>' for name in names)
    index.write_text(f"<!doctype html><title>gradguard</title><h1>API reference</h1><ul>{links}</ul>", encoding="utf-8")
    sys.stdout.write(f"{index}\n")


def is_importable(name: str) -> bool:
    """Whether the framework of a module is installed; a module that loads its names when they are used loads them."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        return False
    vars(module).update({public: getattr(module, public) for public in getattr(module, "__all__", ())})
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "site"))
