"""Calls of an application, and what becomes of what it returns: heads, pieces, files, streams."""
