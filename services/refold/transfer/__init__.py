"""Import and export of a namespace as JSON Lines. For the commands and for programs that use the client.

`import_file(refold, namespace, path, listener)` continues where it stopped when it is run again.
`export(refold, namespace, write, listener)` writes one line a document, or one a version with `is_history`.
"""

from refold.transfer.exporter import ExportListener, ExportTally, export
from refold.transfer.files import LinesFile, Target, target_file
from refold.transfer.importer import ImportListener, ImportTally, import_file

__all__ = [
    "ExportListener",
    "ExportTally",
    "ImportListener",
    "ImportTally",
    "LinesFile",
    "Target",
    "export",
    "import_file",
    "target_file",
]
