"""Measures inversions and edits."""
