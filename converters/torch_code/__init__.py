"""Nets as PyTorch modules in readable source, and as torch.export programs."""
