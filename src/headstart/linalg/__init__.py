"""Numerical engines under the heads: principal coordinates, left-out ridge, batched L-BFGS. Floor 1: numpy only."""
