"""Reports as one HTML file each: style, plots and tables inside, nothing fetched from anywhere."""

from sidrank.pages.document import cards, document, figure, section, table
from sidrank.pages.whole_file import write_whole

__all__ = ["cards", "document", "figure", "section", "table", "write_whole"]
