"""Selection: which features and which head, by cross-validation, with calibrated probabilities."""
