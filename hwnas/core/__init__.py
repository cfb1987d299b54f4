"""The values everything else passes around: immutable, with SI units in storage, and no heavy imports."""
