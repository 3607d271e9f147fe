"""MobiFarm: a device farm for knowledge editing on phones."""

import os

__version__ = "0.1.0"

# ONNX Runtime 1.29 and later write a device id into the user's cache and can send usage data when imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
