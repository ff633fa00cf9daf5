"""Training of compressed networks: fine-tuning, distillation, and training with int8 arithmetic simulated.

`recovery.train` is the whole of it, in one process or as one of several (`processes`).
"""
