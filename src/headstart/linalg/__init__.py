"""Linear algebra under the heads: principal coordinates, out-of-fold ridge, batched softmax regression."""
