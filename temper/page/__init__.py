"""The report page: a run directory in, one self-contained HTML file out.

    from temper.page import write_report
    write_report(Path("runs/quickstart"))          # → runs/quickstart/report.html

`read.py` turns the files of a run into plain data, leniently: a missing file, a half-written last line or a run that is
still going give a smaller page and a note on it, never an error. `write.py` puts that data, the style and the script
into one file that loads nothing: it opens from the file system, offline, years later. Standard library only.
"""

from temper.page.read import Limits, read_run
from temper.page.write import write_report

__all__ = ["Limits", "read_run", "write_report"]
