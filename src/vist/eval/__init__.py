"""Measuring a model: language modelling, exact recall, cost, and the report. Every figure is read beside its controls."""
