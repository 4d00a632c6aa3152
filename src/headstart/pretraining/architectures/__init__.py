"""Architectures that pretraining can build from data; the table is in ``pretraining/base.py``."""
