"""Quantised networks as int8 TFLite files, which the compilers of accelerators take."""

from hwnas.graph.tflite.emit import tflite_bytes, tflite_if_possible

__all__ = ["tflite_bytes", "tflite_if_possible"]
