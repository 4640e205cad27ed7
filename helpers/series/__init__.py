"""The notebooks, run in order, refreshed, and made into exercises: ``python -m helpers.series``."""
