"""Write weights for model.py as safetensors. Untrained: they show the format, not a skill."""

from __future__ import annotations

import sys

import torch
from model import build
from safetensors.torch import save_file

torch.manual_seed(0)
save_file(build().state_dict(), sys.argv[1])
