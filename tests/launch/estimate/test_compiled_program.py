"""Collectives and traffic from a program's text: all forms that XLA writes, and real programs."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jax_pix2pix import sharding
from jax_pix2pix.errors import BenchmarkError
from jax_pix2pix.fit import lower_step
from jax_pix2pix.runs.workdir import abstract_state, build_system
from launch.estimate import compiled_program
from launch.estimate.compiled_program import Collective, collectives, out_of_memory, traffic
from launch.estimate.program_text import arrays, shape_bytes
from tests import golden
from tests.tiny import parameters_with_a_gradient

ALL = ((0, 1, 2, 3),)


def _module(*lines, computations=""):
    body = "\n".join(f"  {line}" for line in lines)
    return (
        "HloModule jit_step, is_scheduled=true\n\n"
        f"{computations}\n"
        "ENTRY %main.1 (p0: f32[8,128], p1: bf16[16]) -> f32[8,128] {\n"
        "  %p0 = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)\n"
        "  %p1 = bf16[16]{0:T(256)(128)(2,1)} parameter(1)\n"
        f"{body}\n"
        "}\n"
    )


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[8,128]{1,0:T(8,128)S(1)}", 4096),
        ("bf16[]{:T(256)}", 2),
        ("pred[7]{0}", 7),
        ("s4[5]", 3),
        ("f8e4m3fn[3,2]", 6),
        ("c64[2]", 16),
        ("(f32[2]{0}, /*index=1*/(u8[3], token[]))", 11),
        ("f32[0,4]", 0),
    ],
)
def test_bytes_of_a_shape(shape, size):
    if "token" in shape:
        shape = shape.replace(", token[]", "")
    assert shape_bytes(shape) == size


@pytest.mark.parametrize(
    ("shape", "padded", "space"),
    [
        ("f32[8,128]{1,0:T(8,128)S(1)}", 4096, 1),
        ("f32[8,100]{1,0:T(8,128)}", 4096, 0),
        ("f32[100,8]{0,1:T(8,128)}", 4096, 0),  # the first axis is the minor one
        ("bf16[3,5,16]{0,2,1:T(8,128)(2,1)}", 5 * 16 * 128 * 2, 0),
        ("bf16[16]{0:T(256)(128)(2,1)}", 512, 0),
        ("f32[]{:T(128)}", 512, 0),
        ("pred[7]{0}", 7, 0),
        ("f32[2,3]", 24, 0),
    ],
)
def test_padding_to_tiles(shape, padded, space):
    (array,) = arrays(shape)
    assert (array.padded_bytes, array.space) == (padded, space)


HBM = "f32[64,128]{1,0:T(8,128)}"
VMEM = "f32[64,128]{1,0:T(8,128)S(1)}"
SIZE = 64 * 128 * 4
P0 = 4096  # in VMEM


@pytest.mark.parametrize(
    ("lines", "operands", "hbm"),
    [
        ([f"ROOT %f = {HBM} fusion(%p0), kind=kLoop, calls=%c"], P0 + SIZE, SIZE),
        ([f"ROOT %f = {VMEM} fusion(%p0, %p0), kind=kLoop, calls=%c"], 2 * P0 + SIZE, 0),
        (
            [  # to VMEM ahead of its use
                f"%a = {HBM} fusion(%p0), kind=kLoop, calls=%c",
                f"%s = ({VMEM}, {HBM}, u32[]{{:S(2)}}) copy-start(%a)",
                f"%d = {VMEM} copy-done(%s)",
                f"ROOT %f = {VMEM} fusion(%d), kind=kLoop, calls=%c",
            ],
            P0 + SIZE + 2 * SIZE,
            SIZE + SIZE,
        ),
        (
            [  # the same, with a quarter
                f"%a = {HBM} fusion(%p0), kind=kLoop, calls=%c",
                f"%s = (({HBM}), {VMEM.replace('64', '16')}, s32[]{{:S(2)}}) slice-start(%a), "
                "slice={[0:16], [0:128]}",
                f"%d = {VMEM.replace('64', '16')} slice-done(%s)",
                f'ROOT %j = {VMEM} custom-call(%d, %d), custom_call_target="ConcatBitcast"',
            ],
            P0 + SIZE,
            SIZE + SIZE // 4,
        ),
        (
            [  # back to HBM
                f"%s = ({HBM}, {VMEM}, u32[]{{:S(2)}}) copy-start(%p0)",
                f"ROOT %d = {HBM} copy-done(%s)",
            ],
            0,
            SIZE,
        ),
        (
            [  # reads 512 bytes with padding, and writes as many
                "%s = bf16[16]{0:T(256)(128)(2,1)} all-reduce-start(%p1), replica_groups={}",
                "%d = bf16[16]{0:T(256)(128)(2,1)} all-reduce-done(%s)",
                "ROOT %t = (bf16[16]{0:T(256)(128)(2,1)}) tuple(%d)",
            ],
            1024,
            1024,
        ),
    ],
    ids=["fusion", "in VMEM", "copy in", "slice in", "copy out", "asynchronous"],
)
def test_traffic(lines, operands, hbm):
    assert traffic(_module(*lines)) == {"operand_bytes": operands, "hbm_bytes": hbm}


def test_traffic_of_a_loop_is_that_of_all_its_turns():
    body = (
        "%body (x: f32[64,128]) -> f32[64,128] {\n"
        f"  %x = {HBM} parameter(0)\n"
        f"  ROOT %y = {HBM} negate(%x)\n"
        "}\n\n"
        "%condition (x: f32[64,128]) -> pred[] {\n"
        f"  %x = {HBM} parameter(0)\n"
        "  ROOT %c = pred[] constant(true)\n"
        "}\n"
    )
    text = _module(
        f"%a = {HBM} fusion(%p0), kind=kLoop, calls=%c",
        f"ROOT %w = {HBM} while(%a), condition=%condition, body=%body, "
        'backend_config={"known_trip_count":{"n":"5"}}',
        computations=body,
    )
    assert traffic(text)["hbm_bytes"] == SIZE + 5 * 2 * SIZE


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}", ((0, 2), (1, 3))),
        ("replica_groups={}", ALL),
        ("replica_groups=[1,4]<=[4]", ALL),
        ("replica_groups=[2,2]<=[4]", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", ((0, 2), (1, 3))),
        ("replica_groups=mesh['axis_0'=4] {'axis_0'}", ALL),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}", ((0, 1), (2, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", ALL),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", ((0, 1), (2, 3))),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", ((0, 1), (2, 3))),
    ],
)
def test_groups(written, groups):
    text = _module(
        f"ROOT %r = f32[8,128]{{1,0}} all-reduce(%p0), channel_id=1, {written}, "
        "use_global_device_ids=true, to_apply=%add"
    )
    assert collectives(text, 4) == [Collective("all-reduce", 4096, 1, groups)]


def test_groups_in_an_unknown_form_are_refused():
    text = _module("ROOT %r = f32[8,128]{1,0} all-reduce(%p0), replica_groups=@else, to_apply=%add")
    with pytest.raises(BenchmarkError, match="unknown form"):
        collectives(text, 4)


def test_kinds_and_their_sizes():
    groups = "replica_groups=[2,2]<=[4]"
    pairs = ((0, 1), (2, 3))
    text = _module(
        f"%t = (f32[8,128]{{1,0}}, bf16[16]{{0}}) all-reduce(%p0, %p1), {groups}, to_apply=%add",
        f"%g = bf16[32]{{0}} all-gather(%p1), {groups}, dimensions={{0}}",
        f"%s = f32[4,128]{{1,0}} reduce-scatter(%p0), {groups}, dimensions={{0}}, to_apply=%add",
        f"%x = f32[8,128]{{1,0}} all-to-all(%p0), {groups}, dimensions={{0}}",
        "%c = bf16[16]{0} collective-permute(%p1), source_target_pairs={{0,1},{1,0}}",
    )
    assert collectives(text, 4) == [
        Collective("all-reduce", 4096 + 32, 2, pairs),
        Collective("all-gather", 64, 1, pairs),
        Collective("reduce-scatter", 4096, 1, pairs),
        Collective("all-to-all", 4096, 1, pairs),
        Collective("collective-permute", 32, 1, ((0, 1), (1, 0))),
    ]


def test_asynchronous_ones_count_once():
    groups = "channel_id=3, replica_groups={{0,1,2,3}}"
    text = _module(
        f"%b = (bf16[16]{{0}}, bf16[64]{{0}}) all-gather-start(%p1), {groups}, dimensions={{0}}",
        "%d = bf16[64]{0} all-gather-done(%b)",
        f"%s = f32[8,128]{{1,0}} all-reduce-start(%p0), {groups}, to_apply=%add",
        "ROOT %e = f32[8,128]{1,0} all-reduce-done(%s)",
    )
    assert collectives(text, 4) == [
        Collective("all-gather", 128, 1, ALL),
        Collective("all-reduce", 4096, 1, ALL),
    ]


def test_pieces_that_computation_overlaps_count_once():
    piece = (
        "channel_id={channel}, replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}, "
        'frontend_attributes={{chain_id="0"}}'
    )
    fusions = "".join(
        f"%fused.{n} (q: bf16[16]) -> bf16[64] {{\n"
        "  %q = bf16[16]{0} parameter(0)\n"
        f"  ROOT %g = bf16[64]{{0}} all-gather(%q), {piece.format(channel=channel)}\n}}\n\n"
        for n, channel in enumerate((5, 5, 6))
    )
    text = _module(
        *(f"%f{n} = bf16[64]{{0}} fusion(%p1), kind=kCustom, calls=%fused.{n}" for n in range(3)),
        computations=fusions,
    )
    assert collectives(text, 4) == [Collective("all-gather", 128, 1, ALL)] * 2


LOOP = """%condition (s: (s32[], f32[4])) -> pred[] {
  %s = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[] constant(6)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%body (s: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s = (s32[], f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%s), index=1
  %r = f32[4]{0} all-reduce(%x), replica_groups={}, to_apply=%add
  ROOT %o = (s32[], f32[4]{0}) tuple(%i, %r)
}
"""
WHILE = "%w = (s32[], f32[4]{0}) while(%t), condition=%condition, body=%body"


def test_a_loop_counts_as_often_as_it_runs():
    known = _module(WHILE + ', backend_config={"known_trip_count":{"n":"5"}}', computations=LOOP)
    assert collectives(known, 4) == [Collective("all-reduce", 16, 1, ALL, times=5)]
    counted = _module(WHILE, computations=LOOP)
    assert collectives(counted, 4) == [Collective("all-reduce", 16, 1, ALL, times=6)]
    with pytest.raises(BenchmarkError, match="unknown length"):
        collectives(_module(WHILE, computations=LOOP.replace("constant(6)", "add(%a, %b)")), 4)


def test_a_scan_as_xla_writes_it():
    mesh = sharding.make_mesh(1, 4, 4)
    rows = NamedSharding(mesh, PartitionSpec(None, "data"))

    def steps(x):
        return jax.lax.scan(lambda total, row: (total + row.sum(), None), 0.0, x)[0]

    x = jax.ShapeDtypeStruct((7, 4), jnp.float32, sharding=rows)
    compiled = jax.jit(steps, out_shardings=sharding.replicated(mesh)).lower(x).compile()
    found = collectives(compiled.as_text(), 4)
    assert [(c.kind, c.groups) for c in found] == [("all-reduce", ALL)]
    assert found[0].times * found[0].bytes == 7 * 4


@pytest.mark.parametrize("devices", [2, 8])
def test_a_step_reduces_the_gradients_and_a_few_scalars(devices):
    config = golden.config_of(golden.CASES["lidc_mask2ct"])
    config.dtype, config.data.batch_size = "float32", 8
    system, mesh = build_system(config), sharding.make_mesh(1, 8, devices)
    abstract = abstract_state(system, config)
    compiled = lower_step(system, config, mesh, abstract)[0].compile()
    found = collectives(compiled.as_text(), devices)
    # The five scalars: real and fake logits, G's adversarial loss, L1, SSIM.
    assert sum(c.bytes for c in found) == 4 * (sum(parameters_with_a_gradient(abstract)) + 5)
    assert {c.group_size for c in found} == {devices}
    parts = compiled_program.memory(compiled)
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract))
    batch = 8 // devices * 2 * 32 * 32
    assert parts["arguments"] == pytest.approx(state + batch, abs=64)
    assert parts["total"] == (
        parts["arguments"]
        + parts["outputs"]
        - parts["aliased"]
        + parts["temporary"]
        + parts["code"]
    )


def test_refusals_of_memory():
    error = out_of_memory(
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 22.50G of 15.75G hbm. Exceeded hbm capacity by 6.75G."
    )
    assert (error.used, error.available) == (22.5 * 2**30, 15.75 * 2**30)
    error = out_of_memory(
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (512.00M) exceeds available HBM (15.75G)."
    )
    assert (error.used, error.available) == (2**29, 15.75 * 2**30)
    assert out_of_memory("RESOURCE_EXHAUSTED: of something else").used is None
