//! What each kernel of a compilation uses, read from the assembler's verbose log.
//!
//! `--ptxas-options=-v` is the only source of spill bytes. The log of NVRTC 12.9 and 13.0, one block a
//! kernel:
//! ```text
//! ptxas info    : Compiling entry function 'forward' for 'sm_90a'
//! ptxas info    : Function properties for forward
//! ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
//! ptxas info    : Used 14 registers, used 1 barriers, 256 bytes smem
//! ```
//! Functions that were not inlined add "Function properties" blocks of their own, after the kernel's.
//! Invariant: a number that the log does not state is an absence, never a zero: a log in which a kernel's
//! registers or spills are missing parses to an error, because "no spills" is decided from it.

use serde::{Deserialize, Serialize};

/// What one kernel uses, by the assembler's account.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Resources {
    /// The kernel's name as it is in the cubin.
    pub kernel: String,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of local stack a thread, spilled registers included, its own frame only.
    pub stack_bytes: u32,
    /// Bytes of spill stores in the code, functions that it calls included.
    pub spill_store_bytes: u32,
    /// Bytes of spill loads in the code, functions that it calls included.
    pub spill_load_bytes: u32,
    /// Bytes of static shared memory a block.
    pub static_shared_bytes: u32,
    /// Named barriers.
    pub barriers: u32,
}

impl Resources {
    /// True when a register had to be kept in memory.
    pub fn spills(&self) -> bool {
        self.spill_store_bytes != 0 || self.spill_load_bytes != 0
    }
}

/// Reads every kernel of a log, sorted by name. The error says which line or number is missing.
pub(super) fn parse(log: &str) -> Result<Vec<Resources>, String> {
    let mut found: Vec<Partial> = Vec::new();
    for line in log.lines() {
        if let Some(rest) = after(line, "Compiling entry function '") {
            let name = rest.split('\'').next().unwrap_or_default();
            found.push(Partial { kernel: name.to_owned(), ..Partial::default() });
            continue;
        }
        let Some(current) = found.last_mut() else {
            continue;
        };
        if let Some(name) = after(line, "Function properties for ") {
            current.in_callee = name.trim() != current.kernel;
        } else if line.contains(" bytes stack frame") {
            let (stack, stores, loads) = (
                number_before(line, " bytes stack frame"),
                number_before(line, " bytes spill stores"),
                number_before(line, " bytes spill loads"),
            );
            let (Some(stack), Some(stores), Some(loads)) = (stack, stores, loads) else {
                return Err(format!(
                    "the spills of {} cannot be read from `{}`",
                    current.kernel,
                    line.trim()
                ));
            };
            if !current.in_callee {
                current.stack = Some(stack);
            }
            current.spill_stores += stores;
            current.spill_loads += loads;
        } else if let (Some(registers), false) = (number_before(line, " registers"), current.in_callee) {
            current.registers = Some(registers);
            current.barriers = number_before(line, " barriers").unwrap_or(0);
            // Absent when the kernel has none: the log lists shared memory only where there is some.
            current.shared = number_before(line, " bytes smem").unwrap_or(0);
        }
    }
    let mut all = found.into_iter().map(Partial::complete).collect::<Result<Vec<_>, _>>()?;
    all.sort_by(|a, b| a.kernel.cmp(&b.kernel));
    Ok(all)
}

#[derive(Default)]
struct Partial {
    kernel: String,
    in_callee: bool,
    registers: Option<u32>,
    stack: Option<u32>,
    spill_stores: u32,
    spill_loads: u32,
    shared: u32,
    barriers: u32,
}

impl Partial {
    fn complete(self) -> Result<Resources, String> {
        let missing = |what: &str| format!("the compiler's log does not state the {what} of {}", self.kernel);
        Ok(Resources {
            registers: self.registers.ok_or_else(|| missing("registers"))?,
            stack_bytes: self.stack.ok_or_else(|| missing("spills"))?,
            spill_store_bytes: self.spill_stores,
            spill_load_bytes: self.spill_loads,
            static_shared_bytes: self.shared,
            barriers: self.barriers,
            kernel: self.kernel,
        })
    }
}

fn after<'a>(line: &'a str, marker: &str) -> Option<&'a str> {
    line.split_once(marker).map(|(_, rest)| rest)
}

/// The number that stands directly before `unit`: 256 in `1 barriers, 256 bytes smem` for ` bytes smem`.
fn number_before(line: &str, unit: &str) -> Option<u32> {
    let (before, _) = line.split_once(unit)?;
    let digits = before.len() - before.bytes().rev().take_while(u8::is_ascii_digit).count();
    before[digits..].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'sp' for 'sm_90a'
ptxas info    : Function properties for sp
ptxas         .     14248 bytes stack frame, 17904 bytes spill stores, 29636 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 14248 bytes cumulative stack size
ptxas info    : Compile time = 1561.085 ms
ptxas info    : Compiling entry function 'k' for 'sm_90a'
ptxas info    : Function properties for k
ptxas         .     8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 14 registers, used 1 barriers, 256 bytes smem
ptxas info    : Function properties for callee
    16 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
";

    #[test]
    fn every_kernel_of_a_log_is_read() {
        let all = parse(LOG).expect("a well-formed log");
        let names: Vec<_> = all.iter().map(|one| one.kernel.as_str()).collect();
        assert_eq!(names, ["k", "sp"]);
        assert_eq!((all[1].registers, all[1].stack_bytes), (32, 14248));
        assert_eq!((all[1].spill_store_bytes, all[1].spill_load_bytes), (17904, 29636));
        assert!(all[1].spills());
        assert_eq!((all[0].registers, all[0].static_shared_bytes, all[0].barriers), (14, 256, 1));
    }

    #[test]
    fn spills_of_a_function_that_is_called_count_for_the_kernel() {
        let all = parse(LOG).expect("a well-formed log");
        assert_eq!((all[0].spill_store_bytes, all[0].spill_load_bytes, all[0].stack_bytes), (4, 12, 8));
        assert!(all[0].spills());
    }

    #[test]
    fn a_log_without_spills_is_an_error_and_not_zero() {
        let log: String =
            LOG.lines().filter(|line| !line.contains("stack frame")).collect::<Vec<_>>().join("\n");
        assert!(parse(&log).expect_err("no spills stated").contains("spills"));
        let log = LOG.replace("29636 bytes spill loads", "many bytes spill loads");
        assert!(parse(&log).expect_err("an unreadable number").contains("cannot be read"));
    }
}
