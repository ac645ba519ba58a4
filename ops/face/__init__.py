"""Faces: detect, cut into shots, track, smooth, align, mask, paste. Frames => quads => crops => frames."""
