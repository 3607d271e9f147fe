"""What an edit did to a model, measured in the same way on a bundle and on a torch model."""
