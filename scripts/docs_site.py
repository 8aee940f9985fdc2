"""Hook of mkdocs: the README is the site's first page, and links that leave `docs/` are turned into plain code."""

import re
from pathlib import Path

from mkdocs.structure.files import File

PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}
REPOSITORY = Path(__file__).resolve().parent.parent


def on_files(files, config):
    """Adds the README, CONTRIBUTING and CHANGELOG as pages, with the links that a page of the site needs."""
    for source, page in PAGES.items():
        text = (REPOSITORY / source).read_text()
        text = text.replace("](docs/", "](").replace("](CONTRIBUTING.md)", "](contributing.md)")
        text = text.replace("](CHANGELOG.md)", "](changes.md)")
        files.append(File.generated(config, page, content=_without_outside_links(text)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to files outside `docs/` as plain code."""
    return _without_outside_links(markdown)


def _without_outside_links(text: str) -> str:
    return re.sub(r"\[([^\]]+)\]\(((?:\.\./|notebooks/)[^)]*)\)", r"\1 (`\2`)", text).replace("(`../", "(`")
