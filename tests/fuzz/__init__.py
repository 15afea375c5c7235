"""Fuzzing of the server: random bytes, random faults and random schedules, each repeatable by its seed."""
