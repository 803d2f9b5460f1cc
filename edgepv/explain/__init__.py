"""What a bundle's answer to a clip rests on: places of the picture, and particles.

Deletion says how far to believe it.
"""
