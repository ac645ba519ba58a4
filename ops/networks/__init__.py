"""Reference networks of the official evaluation and training, with the names that the published weight files use."""
