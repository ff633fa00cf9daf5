"""The history of a bundle's figures over commits, and where it changed."""
