"""Attacks on the privacy promises, each a function that returns figures and fails when a promise breaks."""
