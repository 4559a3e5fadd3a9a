"""Weights as files: their format, their names, their cards, and the Hub."""
