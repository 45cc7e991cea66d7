"""Measuring a model: language modelling, exact recall, cost, and the report; every figure beside its controls."""
