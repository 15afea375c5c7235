"""What one client is still to be sent."""
