//! The byte form of a key, for the indexed store.
//!
//! Big-endian and self-delimiting, with the device first and the program second: keys sort by device, then
//! program, and every trial of a device, or of a device and program, is one prefix scan. No encoding is a
//! proper prefix of another, so a scan for one key cannot meet another key's trials.

use super::{
    Cpu, Device, Dtype, Eps, Filter, Gpu, Gradients, KEY_SCHEMA, Key, MemoryClass, Objective, Problem,
};
use crate::error::{Error, Result};
use crate::hash::ProgramHash;

/// Bytes of a problem.
const PROBLEM: usize = 34;

/// Bytes of [`Key::rest_bytes`]: the memory class in two, and the problem.
pub(crate) const REST: usize = 2 + PROBLEM;

impl Key {
    /// The stable byte form.
    ///
    /// # Errors
    /// When the key has another schema than [`KEY_SCHEMA`], or a device name of more than 65535 bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = self.kind_prefix()?;
        match self.memory {
            MemoryClass::AtMost { log2_bytes } => out.extend([0, log2_bytes]),
            MemoryClass::Unlimited => out.push(1),
        }
        out.extend(self.problem.to_bytes());
        Ok(out)
    }

    /// What the encodings of all keys of a device, program, type, objective and filter begin with.
    pub(crate) fn kind_prefix(&self) -> Result<Vec<u8>> {
        if self.schema != KEY_SCHEMA {
            return Err(Error::Invalid {
                what: "schema of a key",
                expected: "the one this version writes",
                found: self.schema.to_string(),
            });
        }
        let mut out = Self::program_prefix(&self.device, &self.program)?;
        out.push(match self.dtype {
            Dtype::Bf16 => 0,
            Dtype::F16 => 1,
            Dtype::F32 => 2,
        });
        out.push(match self.objective {
            Objective::Loss => 0,
            Objective::LossAndGradients => 1,
        });
        match self.filter {
            Filter::Exact => out.push(0),
            Filter::Blocks { eps } => {
                out.push(1);
                out.extend(eps.bits().to_be_bytes());
            }
            Filter::Sampled { eps, max_entries } => {
                out.push(2);
                out.extend(eps.bits().to_be_bytes());
                out.extend(max_entries.to_be_bytes());
            }
        }
        Ok(out)
    }

    /// What a key adds to its [`Key::kind_prefix`], always as long.
    pub(crate) fn rest_bytes(&self) -> [u8; REST] {
        let mut out = [0; REST];
        let memory = match self.memory {
            MemoryClass::AtMost { log2_bytes } => [0, log2_bytes],
            MemoryClass::Unlimited => [1, 0],
        };
        for (to, byte) in out.iter_mut().zip(memory.into_iter().chain(self.problem.to_bytes())) {
            *to = byte;
        }
        out
    }

    /// A key that begins with these bytes, of no particular problem.
    pub(crate) fn of_kind_prefix(prefix: &[u8]) -> Result<Self> {
        let mut bytes = prefix.to_vec();
        bytes.push(1);
        bytes.extend([0; PROBLEM]);
        Self::decode(&bytes)
    }

    /// Memory class and problem of [`Key::rest_bytes`].
    pub(crate) fn read_rest(bytes: &[u8; REST]) -> Result<(MemoryClass, Problem)> {
        let mut r = Bytes { rest: bytes };
        let memory = match r.take("memory class")? {
            [0, log2_bytes] => MemoryClass::AtMost { log2_bytes },
            [1, 0] => MemoryClass::Unlimited,
            _ => return Err(wrong("memory class")),
        };
        Ok((memory, Problem::read(&mut r)?))
    }

    /// What the encodings of all keys of a device begin with.
    ///
    /// # Errors
    /// When the device's name has more than 65535 bytes.
    pub fn device_prefix(device: &Device) -> Result<Vec<u8>> {
        let mut out = KEY_SCHEMA.to_be_bytes().to_vec();
        let name = device.name();
        let length = u16::try_from(name.len()).map_err(|_| Error::Invalid {
            what: "device name",
            expected: "at most 65535 bytes",
            found: format!("{} bytes", name.len()),
        })?;
        out.push(match device {
            Device::Cpu(_) => 0,
            Device::Gpu(_) => 1,
        });
        out.extend(length.to_be_bytes());
        out.extend(name.as_bytes());
        match device {
            Device::Cpu(cpu) => out.extend(cpu.cores.to_be_bytes()),
            Device::Gpu(gpu) => {
                out.extend(gpu.compute_capability.0.to_be_bytes());
                out.extend(gpu.compute_capability.1.to_be_bytes());
                out.extend(gpu.sms.to_be_bytes());
                out.extend(gpu.shared_memory_bytes.to_be_bytes());
                out.extend(gpu.l2_bytes.to_be_bytes());
            }
        }
        Ok(out)
    }

    /// What the encodings of all keys of a device and a program begin with.
    ///
    /// # Errors
    /// When the device's name has more than 65535 bytes.
    pub fn program_prefix(device: &Device, program: &ProgramHash) -> Result<Vec<u8>> {
        let mut out = Self::device_prefix(device)?;
        out.extend(program.as_bytes());
        Ok(out)
    }

    /// The inverse of [`Key::encode`].
    ///
    /// # Errors
    /// When the bytes are not exactly one key of this schema.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Bytes { rest: bytes };
        let schema = u32::from_be_bytes(r.take("schema")?);
        if schema != KEY_SCHEMA {
            return Err(wrong("schema"));
        }
        let kind = r.byte("device kind")?;
        let length = u16::from_be_bytes(r.take("device name")?);
        let name = std::str::from_utf8(r.slice(length.into(), "device name")?)
            .map_err(|_| wrong("device name"))?
            .to_owned();
        let device = match kind {
            0 => Device::Cpu(Cpu { name, cores: u32::from_be_bytes(r.take("cores")?) }),
            1 => Device::Gpu(Gpu {
                name,
                compute_capability: (
                    u16::from_be_bytes(r.take("compute capability")?),
                    u16::from_be_bytes(r.take("compute capability")?),
                ),
                sms: u32::from_be_bytes(r.take("SM count")?),
                shared_memory_bytes: r.u64("shared memory")?,
                l2_bytes: r.u64("L2")?,
            }),
            _ => return Err(wrong("device kind")),
        };
        let program = ProgramHash::from_bytes(r.take("program")?);
        let dtype = match r.byte("dtype")? {
            0 => Dtype::Bf16,
            1 => Dtype::F16,
            2 => Dtype::F32,
            _ => return Err(wrong("dtype")),
        };
        let objective = match r.byte("objective")? {
            0 => Objective::Loss,
            1 => Objective::LossAndGradients,
            _ => return Err(wrong("objective")),
        };
        let filter = match r.byte("filter")? {
            0 => Filter::Exact,
            1 => Filter::Blocks { eps: Eps::from_bits(r.u64("eps")?)? },
            2 => Filter::Sampled {
                eps: Eps::from_bits(r.u64("eps")?)?,
                max_entries: u32::from_be_bytes(r.take("max_entries")?),
            },
            _ => return Err(wrong("filter")),
        };
        let memory = match r.byte("memory class")? {
            0 => MemoryClass::AtMost { log2_bytes: r.byte("memory class")? },
            1 => MemoryClass::Unlimited,
            _ => return Err(wrong("memory class")),
        };
        let problem = Problem::read(&mut r)?;
        if !r.rest.is_empty() {
            return Err(wrong("end"));
        }
        Ok(Self { schema, program, problem, objective, memory, dtype, filter, device })
    }
}

impl Problem {
    fn to_bytes(self) -> [u8; PROBLEM] {
        let gradients = self.gradients;
        let mut out = [0; PROBLEM];
        let flags = [
            u8::from(gradients.hidden) | u8::from(gradients.classifier) << 1,
            u8::from(self.ignored) | u8::from(self.accumulate) << 1,
        ];
        let numbers = [gradients.inputs, self.hidden, self.vocab, self.tokens_bucket];
        let bytes = flags.into_iter().chain(numbers.into_iter().flat_map(u64::to_be_bytes));
        for (to, byte) in out.iter_mut().zip(bytes) {
            *to = byte;
        }
        out
    }

    fn read(r: &mut Bytes<'_>) -> Result<Self> {
        let (wanted, flags) = (r.byte("gradients")?, r.byte("flags")?);
        if wanted > 3 || flags > 3 {
            return Err(wrong("gradients or flags"));
        }
        let inputs = r.u64("gradients")?;
        Ok(Self {
            gradients: Gradients { hidden: wanted & 1 != 0, classifier: wanted & 2 != 0, inputs },
            ignored: flags & 1 != 0,
            accumulate: flags & 2 != 0,
            hidden: r.u64("hidden")?,
            vocab: r.u64("vocab")?,
            tokens_bucket: r.u64("tokens")?,
        })
    }
}

fn wrong(field: &'static str) -> Error {
    Error::Decode {
        what: "a stored key".to_owned(),
        reason: format!("its {field} is not one this version knows"),
    }
}

struct Bytes<'a> {
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    fn slice(&mut self, length: usize, field: &'static str) -> Result<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or_else(|| wrong(field))?;
        self.rest = rest;
        Ok(head)
    }

    fn take<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| wrong(field))?;
        self.rest = rest;
        Ok(*head)
    }

    fn byte(&mut self, field: &'static str) -> Result<u8> {
        self.take::<1>(field).map(|[b]| b)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64> {
        self.take(field).map(u64::from_be_bytes)
    }
}
