"""No test reaches the servers of Weights & Biases, in processes of its own neither."""

import os

os.environ.update(WANDB_MODE="offline", WANDB_ERROR_REPORTING="false", WANDB_SILENT="true")
