"""Plumbing of the notebook series: servers, settings, displays and the command that runs it all."""
