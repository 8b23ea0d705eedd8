"""The interfaces of other packages, so that existing code changes its import only."""
