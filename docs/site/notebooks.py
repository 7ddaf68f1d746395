"""Tutorials are notebooks without outputs: the build runs them and makes pages of what comes out.

A cell that fails ends the build, so a tutorial on the site has just worked.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from traitlets.config import Config

NOTE = "*This page is a notebook that ran when the site was built: [{0}]({0}).*\n"
SECONDS = 300
"""That a cell, or the start of the kernel, may take on a busy machine."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page and the pictures of each notebook in docs/tutorials."""
    for path in sorted(Path(config.docs_dir).glob("tutorials/*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        with TemporaryDirectory() as folder:
            # The kernel is spoken to through files, not ports, which others here could listen to.
            private = {"transport": "ipc", "ip": f"{folder}/kernel"}
            NotebookClient(
                notebook,
                timeout=SECONDS,
                startup_timeout=SECONDS,
                resources={"metadata": {"path": folder}},
                config=Config({"ConnectionFileMixin": private}),
            ).execute()
        for cell in notebook.cells:  # progress bars, which are drawn again and again
            cell.outputs = [o for o in cell.get("outputs", ()) if o.get("name") != "stderr"]
        named = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
        text, made = MarkdownExporter().from_notebook_node(notebook, resources=named)
        title, rest = text.split("\n", 1)
        text = f"{title}\n\n{NOTE.format(path.name)}\n{rest}"
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=text))
        for name, data in made["outputs"].items():
            files.append(File.generated(config, f"tutorials/{name}", content=data))
    return files
