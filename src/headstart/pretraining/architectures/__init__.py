"""pretraining/architectures."""
