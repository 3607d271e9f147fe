"""Which phones are plugged in now: on USB, behind an adb server, or announced in a folder."""
