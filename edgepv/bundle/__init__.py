"""The bundle: one folder (or one zip of it) that a device can run and anyone can check: manifest, golden
answers, signature, and proof on a machine it was not made on.
"""
