"""Who leads, and who runs handlers."""
