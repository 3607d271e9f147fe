"""What is learned once per model, on public text and facts, and shipped in its bundle for the phone."""
