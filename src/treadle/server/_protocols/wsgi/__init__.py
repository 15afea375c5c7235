"""WSGI (PEP 3333): requests to calls of an application, and what it returns to answers."""
