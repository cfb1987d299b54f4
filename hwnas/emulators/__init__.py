"""Emulated meters for tests and demonstrations: they speak as the real ones do, about a load that the test knows."""
