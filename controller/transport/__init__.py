"""The link to a phone: ADB over USB or TCP, with many streams at once on one connection."""
