"""Editors with backpropagation, on the host and in torch, to compare the phone's methods with."""
