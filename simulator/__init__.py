"""Virtual phones: the device side of ADB in a sandbox with Android's file tree and sensors."""
