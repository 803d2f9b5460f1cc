"""The LABELLED FAKE of tensorrt, as a process with this folder in its PYTHONPATH imports it."""

import os
import sys

import fake_driver
import fake_tensorrt

sys.modules[__name__] = fake_tensorrt.make(os.environ.get("FAKE_TENSORRT", "10.3.0"), fake_driver.DRIVER)
