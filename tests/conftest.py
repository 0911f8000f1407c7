"""No test reaches the servers of Weights & Biases, nor do its processes; Ctrl-C means what it does at a desk.

Shells start jobs in the background with SIGINT ignored, and programs hand that on to those that they start.
"""

import os
import signal

os.environ.update(WANDB_MODE="offline", WANDB_ERROR_REPORTING="false", WANDB_SILENT="true")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
