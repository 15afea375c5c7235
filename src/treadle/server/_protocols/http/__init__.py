"""HTTP/1.1 (RFC 9110, RFC 9112): bytes to requests, and what is said of them. It knows no application."""
