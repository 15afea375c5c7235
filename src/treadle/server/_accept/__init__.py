"""How clients come in: listeners, limits, trusted proxies, certificates."""
