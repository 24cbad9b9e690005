"""Metrics: strings or scores in, a number out; none of them knows what a model or a dataset is."""
