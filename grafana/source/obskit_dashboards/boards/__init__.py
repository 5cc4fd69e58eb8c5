"""One dashboard a file; the file's name is its slug, with hyphens for underscores."""
