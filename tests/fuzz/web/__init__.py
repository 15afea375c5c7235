"""Fuzzing of the way from bytes to requests of HTTP, and to the answers of an application."""
