"""Several tasks and threads together."""
