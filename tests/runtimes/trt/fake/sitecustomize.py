"""Puts the fake driver in place of libcuda in a process whose PYTHONPATH names this folder."""

import fake_driver

fake_driver.install()
