"""MobiFarm: a device farm for knowledge editing on phones."""

__version__ = "0.1.0"
