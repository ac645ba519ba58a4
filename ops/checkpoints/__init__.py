"""Model files. Foreign names stop here: everything inside is our bundle's."""
