"""The command line: one file for each group of commands.

Only argparse is imported before a command runs, so ``edgepv --help`` answers at once.
"""
