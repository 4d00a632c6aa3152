"""Numerical engines under the heads: principal coordinates, ridge over folds, batched L-BFGS. Floor 1: numpy and scipy."""
