"""The controller process: the loop around the pure core, Ray, and what people may ask of the farm."""
