"""pretraining/objectives."""
