"""The gate: is a candidate bundle slower, larger or less accurate than a baseline?"""
