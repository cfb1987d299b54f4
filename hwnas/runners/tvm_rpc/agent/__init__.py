"""The program on the board: a TVM RPC server that lends the board to one client at a time, and what a session answers.

Its folder is copied to boards as it is and started by `python -m agent`; it needs Python 3.10, numpy and TVM's runtime
there, and nothing else of hwnas. Everything that matters travels through one remote function, `hwnas.answer`, in sealed
messages: TVM's RPC carries no checksum, so a flipped bit in an upload or in a result would otherwise be a wrong number.
"""
