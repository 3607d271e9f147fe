"""The device side of the ADB protocol, standard library only: it also runs inside the phone's sandbox."""
