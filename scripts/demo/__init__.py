"""Modules of `scripts/train_demo_model.py`."""
