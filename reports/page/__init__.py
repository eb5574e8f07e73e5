"""The HTML report and the tables on disk."""
