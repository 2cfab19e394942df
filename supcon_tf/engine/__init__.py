"""The training step, the loop, checkpoints, optimizers, schedules and devices."""
