"""Inversion: images => codes and what the codes could not hold, and back."""
