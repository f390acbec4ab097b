"""The store `files`: a projection in one SQLite database."""
