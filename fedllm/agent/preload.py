"""Load what a training process needs: the server of `fedllm.agent.warm` imports this module once.

It computes nothing. A thread that a library starts would be missing in every forked process, so OpenBLAS,
which starts threads when it is loaded, is limited to one; training computes with torch.
"""

import gc
import logging
import os
from contextlib import suppress
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import opacus.grad_sample  # noqa: F401 - after the environment; imported for forked processes
import peft  # noqa: F401 - as opacus
import transformers.models.llama.modeling_llama  # noqa: F401 - as opacus

import fedllm.agent.agent
import fedllm.models.adapter
import fedllm.models.base
import fedllm.tasks.causal
import fedllm.training.dp
import fedllm.training.local
import fedllm.training.site_level
from fedllm.agent.warm import WARM_BASE

# opacus configures the root logger on import; a server that has just started has no handlers to lose.
logging.root.handlers.clear()
logging.root.setLevel(logging.WARNING)

if base := os.environ.pop(WARM_BASE, None):
    with suppress(Exception):  # a process that needs it loads it again and reports the error
        fedllm.models.base.keep_base(Path(base))
gc.collect()
gc.freeze()  # a forked process' collector would write to every shared page
