"""What a training process needs, loaded: the server of `fedllm.agent.warm` imports this module once.

Nothing is computed here. A thread that a library starts would be missing in every process that is forked, so
OpenBLAS, which starts some as soon as it is loaded, is told to do without; training computes with torch.
"""

import gc
import logging
import os
from contextlib import suppress
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import opacus.grad_sample  # noqa: F401 - after the environment; imported for those who are forked
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

# opacus sets the whole process' logging up when it is imported; a server that has just started had none.
logging.root.handlers.clear()
logging.root.setLevel(logging.WARNING)

if base := os.environ.pop(WARM_BASE, None):
    with suppress(Exception):  # whoever needs it loads it again, and says what is wrong
        fedllm.models.base.keep_base(Path(base))
gc.collect()
gc.freeze()  # the collector of a forked process would write to every page that holds an object of these
