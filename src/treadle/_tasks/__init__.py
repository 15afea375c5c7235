"""One task: its future, its scope and what it runs, whoever runs it."""
