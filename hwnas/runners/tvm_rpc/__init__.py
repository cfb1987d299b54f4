"""Linux boards behind TVM's RPC tracker, real ones and a Cortex-A under qemu-user on this computer."""

from __future__ import annotations

from hwnas.runners.tvm_rpc.runner import RpcRunner

__all__ = ["RpcRunner"]
