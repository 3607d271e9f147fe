"""Modelled sensors of a virtual phone: power, heat and charge from the CPU time that was really used."""
