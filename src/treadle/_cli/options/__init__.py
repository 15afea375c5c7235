"""The options of commands: which there are, what values they take, and where these come from."""
