"""Filling a step's batch of groups: asked of an engine, scored, filtered, kept for later."""
