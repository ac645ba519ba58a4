"""What an inversion or an edit is worth, in numbers."""
