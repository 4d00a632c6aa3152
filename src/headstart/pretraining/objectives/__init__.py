"""Objectives of pretraining; the table is in ``pretraining/base.py``."""
