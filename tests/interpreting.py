"""Without a card kernels run in Triton's interpreter: asked for before anything imports triton.

What compiles kernels ahead of time does so in a process of its own.
"""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
