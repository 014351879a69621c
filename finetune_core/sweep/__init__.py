"""Sweeps: many jobs that differ in some fields, one study of them, and the best one."""
