"""ZigZag in a process of its own: it may take minutes for a kernel, and whoever asks has a deadline.

Its stages are run without those that save: nothing is written, and nothing pickled.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import Any

from zigzag.mapping.data_movement import DataDirection
from zigzag.mapping.temporal_mapping import TemporalMappingType
from zigzag.parser.mapping_validator import MappingValidator
from zigzag.parser.workload_factory import WorkloadFactory
from zigzag.parser.workload_validator import WorkloadValidator
from zigzag.stages.evaluation.cost_model_evaluation import CostModelStage
from zigzag.stages.main import MainStage
from zigzag.stages.mapping.spatial_mapping_generation import SpatialMappingGeneratorStage
from zigzag.stages.mapping.temporal_mapping_generator_stage import TemporalMappingGeneratorStage
from zigzag.stages.parser.accelerator_parser import AcceleratorParserStage
from zigzag.stages.parser.workload_parser import WorkloadParserStage
from zigzag.stages.results.reduce_stages import MinimalLatencyStage
from zigzag.stages.workload_iterator import WorkloadStage

from hwnas.processes import serve

PICO = 1e-12
"""ZigZag's energies are picojoules."""
READS = (DataDirection.RD_OUT_TO_LOW, DataDirection.RD_OUT_TO_HIGH)
_STAGES = (
    WorkloadStage, MinimalLatencyStage, SpatialMappingGeneratorStage, MinimalLatencyStage,
    TemporalMappingGeneratorStage, CostModelStage,
)  # fmt: skip


def price(request: dict[str, Any]) -> dict[str, Any]:
    """The cost of one kernel: {nest, hardware, mapping, loops, mappings} -> what a KernelPrice holds.

    Raises whatever ZigZag raises where it finds no mapping.
    """
    nests = WorkloadValidator([request["nest"]])
    if not nests.validate():
        raise ValueError(f"the kernel is not in the form of its workloads: {nests.validator.errors}")
    if request["mapping"] is None:
        mapping = MappingValidator([{"name": "default"}]).normalized_data
    else:
        mapping = WorkloadParserStage.parse_mapping_data(request["mapping"])
    found = MainStage(
        list(_STAGES),
        workload=WorkloadFactory(nests.normalized_data, mapping).create(),
        accelerator=AcceleratorParserStage.parse_accelerator(request["hardware"]),
        loma_lpf_limit=request["loops"],
        loma_show_progress_bar=False,
        nb_mappings_generated=request["mappings"],
        enable_mix_spatial_mapping_generation=False,
        access_same_data_considered_as_no_access=True,
        temporal_mapping_type=TemporalMappingType.UNEVEN,
    ).run()
    if len(found) != 1:
        raise ValueError(f"{len(found)} kernels were priced instead of one")
    best = found[0][0]
    return {
        "latency_cycles": float(best.latency_total2),
        "port_cycles": _port_cycles(best),
        "macs": float(best.layer.total_mac_count),
        "energy_j": float(best.energy_total) * PICO,
        "traffic": _traffic(best),
    }


def _port_cycles(found: Any) -> float:
    """Cycles of the port that passes most words, one a cycle; of memories that are there many times, on average."""
    links, words = found.memory_operand_links, found.memory_word_access
    busy = [0.0]
    for memory in found.mem_level_list:
        for port in memory.ports:
            served = [entry for entry in port.served_op_lv_dir if links.contains_mem_op(entry[0])]
            passed = sum(words[links.mem_to_layer_op(held)][level].get(way) for held, level, way in served)
            busy.append(passed / memory.unroll_count)
    return float(max(busy))


def _traffic(found: Any) -> dict[str, float]:
    """Bytes by memory and direction; ZigZag counts words as wide as a port."""
    moved: defaultdict[str, float] = defaultdict(float)
    for operand, levels in found.memory_word_access.items():
        held = found.memory_operand_links.layer_to_mem_op(operand)
        memories = found.accelerator.memory_hierarchy.get_memory_levels(mem_op=held)
        for words, memory in zip(levels, memories):
            for direction in DataDirection:
                count = words.get(direction)
                if count:
                    way = "read" if direction in READS else "write"
                    moved[f"{memory.name}_{way}"] += count * memory.get_max_bandwidth(held, direction) / 8
    return {name: float(n) for name, n in sorted(moved.items())}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # it tells of every loop that it shortens
    serve(price)
