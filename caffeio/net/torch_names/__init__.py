"""Weights under the names and in the forms of a PyTorch module, and back."""
