"""The standard library's `socketserver` on a pool."""
