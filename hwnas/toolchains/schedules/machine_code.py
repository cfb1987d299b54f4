"""From a scheduled PrimFunc to machine code: the passes of TVM that a processor needs, and no more.

`tvm.tirx.build` also makes an entry function that holds a second copy of how arguments are unpacked, and checks every
field of every argument; both together take LLVM longer than the kernel itself.
"""

from __future__ import annotations

from typing import Any


def compiled_module(function: Any, symbol: str, target: Any, checked: bool = True) -> Any:
    """A scheduled PrimFunc compiled under a symbol, as a runtime module that can be written to an object file.

    With `checked`, it refuses arguments whose shapes, types or strides are not its own; without, who calls it answers
    for them.
    """
    import tvm

    host = tvm.target.Target(target)
    named = function.with_attrs({"global_symbol": symbol, "tirx.is_scheduled": True})
    module = tvm.tirx.transform.BindTarget(host.with_host(host))(tvm.IRModule({symbol: named}))
    module = tvm.transform.Sequential(_lowering(checked))(module)
    return tvm.get_global_func("target.build.llvm")(module, host)


def _lowering(checked: bool) -> list[Any]:
    """TVM's passes from blocks to calls of its runtime, in the order of its own pipeline, without those for GPUs."""
    from tvm.s_tir import transform as blocks
    from tvm.tirx import transform as plain

    return [
        blocks.CanonicalizeLoop(),
        blocks.LowerInitBlock(),
        blocks.PlanAndUpdateBufferAllocationLocation(),
        blocks.ConvertBlocksToOpaque(),
        blocks.CompactBufferAllocation(),
        blocks.LowerMatchBuffer(),
        blocks.StmtSimplify(),
        blocks.LowerOpaqueBlock(),
        plain.FlattenBuffer(),
        plain.BF16ComputeLegalize(),
        plain.NarrowDataType(32),
        blocks.LoopPartition(),
        plain.VectorizeLoop(True),
        plain.StorageRewrite(),
        blocks.HoistIfThenElse(),
        plain.UnrollLoop(),
        blocks.RenormalizeSplitPattern(),
        plain.StmtSimplify(),
        plain.RemoveNoOp(),
        blocks.RewriteUnsafeSelect(),
        plain.CommonSubexprElim(),
        plain.FP8ComputeLegalize(),
        plain.SplitHostDevice(),
        plain.MakePackedAPI(),
        plain.FP8StorageLegalize(),
        plain.BF16StorageLegalize(),
        *([] if checked else [plain.SkipAssert()]),
        plain.LowerTVMBuiltin(),
        plain.LowerIntrin(),
    ]
