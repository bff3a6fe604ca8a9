"""Tests of the images and of what deploy/ holds."""
