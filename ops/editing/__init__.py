"""Editors: a W+ code and a strength in, a W+ code out; recipes: what, how much, to whom and when."""
