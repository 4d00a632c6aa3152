"""Training: one loop for fine-tuning, pretraining, speech heads and training from scratch, its config and its parts.

``config`` has the settings, ``loop`` the steps, ``callbacks`` what happens between them, ``batches`` the data,
``checkpoint`` the state on disk, ``losses`` and ``augment`` what is minimised on what, ``distributed`` several
processes. Import from the file: the package itself imports nothing, so that settings can be read without torch.
"""
