"""Everything that runs on a phone: the gRPC service, the forward-only editor, sensors."""
