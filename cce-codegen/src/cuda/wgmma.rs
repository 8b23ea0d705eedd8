//! The wgmma instruction of a tile: as many operands as a thread has sums.

use crate::problem::DType;

/// `wgmma<TRANSPOSE_A, TRANSPOSE_B>(acc, a, b, add)`: acc = a * b, plus acc where `add` is not 0; 64 rows, `n`
/// columns, 16 deep; a, b: descriptors of matrices in shared memory. Of eight neighbouring columns a thread
/// has two, in two rows (PTX ISA, "Register fragments for wgmma.mma_async.m64nNk16").
pub(super) fn instruction(n: u32, dtype: DType) -> String {
    let sums = n / 2;
    let registers: Vec<String> = (0..sums).map(|i| format!("%{i}")).collect();
    let operands: Vec<String> =
        (0..sums).map(|i| format!("\"+f\"(acc[{}][{}])", i % 4 / 2, i / 4 * 2 + i % 2)).collect();
    let types = if dtype == DType::F16 { "f16.f16" } else { "bf16.bf16" };
    let lines = |items: &[String]| {
        items.chunks(16).map(|line| line.join(", ")).collect::<Vec<_>>().join(",\n            ")
    };
    let registers: Vec<String> = registers.chunks(32).map(|line| format!("\"{}", line.join(", "))).collect();
    format!(
        "template <int TRANSPOSE_A, int TRANSPOSE_B> DEVICE void wgmma(float (&acc)[ACC_ROWS][ACC_COLS], u64 a, u64 b, int add) {{\n    \
         asm volatile(\"{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{add}, 0;\\nwgmma.mma_async.sync.aligned.m64n{n}k16.f32.{types} {{\"\n        \
         {registers}\"\n        \
         \"}}, %{a}, %{b}, p, 1, 1, %{ta}, %{tb};\\n}}\"\n        \
         : {operands}\n        \
         : \"l\"(a), \"l\"(b), \"r\"(add), \"n\"(TRANSPOSE_A), \"n\"(TRANSPOSE_B));\n}}\n\n",
        registers = registers.join(", \"\n        "),
        operands = lines(&operands),
        a = sums,
        b = sums + 1,
        add = sums + 2,
        ta = sums + 3,
        tb = sums + 4,
    )
}
