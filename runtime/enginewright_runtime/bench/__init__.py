"""Measuring a bundle on the machine that it runs on: one module for each question."""
