//! Heads from safetensors files.
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `e` | f32, f16, bf16 | \[N, D\] | hidden states |
//! | `c` | as `e` | \[V, D\] | the classifier, or else the next two |
//! | `c_q`, `c_scale` | i8, f16 | \[V, D\], \[V, D / 32\] | codes, and a scale for each 32 of them |
//! | `targets` | i32, i64 | \[N\] | -100: ignored |
//! | `lse`, `loss` | f64, f32 | \[N\] | optional references, see [`References`] |
//! | `de_rows` | f32 | \[any, D\] | optional: the first rows of dE |
//! | `dc_rows_idx`, `dc_rows` | i32 or i64, f32 | \[K\], \[K, D\] | optional, together: rows of dC |
//!
//! Codes mean `C[v, 32 b + k] = c_scale[v, b] * c_q[v, 32 b + k]`, computed in fp32 and rounded to bf16.
//! A file written by PyTorch's or NumPy's safetensors is one; other tensors in it are left alone.

use super::{Elements, Head, IGNORED, References, Targets};
use crate::Error;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensorError, SafeTensors};
use std::path::{Path, PathBuf};

/// Elements of `c_q` that share a scale.
const BLOCK: usize = 32;

impl Head {
    /// Reads a head from a safetensors file with the tensors of the table above.
    ///
    /// # Errors
    /// When the file cannot be read, lacks a tensor, or holds one of another type or shape; when a target is
    /// no entry.
    pub fn load(path: impl AsRef<Path>) -> Result<Head, Error> {
        Head::load_with_targets(path, "targets")
    }

    /// As [`Head::load`], with the targets of another tensor. The file's references are for `targets`: with
    /// others, they are left out.
    ///
    /// # Errors
    /// As [`Head::load`].
    pub fn load_with_targets(path: impl AsRef<Path>, targets: &str) -> Result<Head, Error> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| damaged(path, &error))?;
        let file = File { path, tensors };

        let e = file.tensor("e", "store the hidden states as `e`, [tokens, hidden size]")?;
        let [tokens, width] = file.matrix("e", &e, "[N, D]")?;
        let hidden = file.elements("e", &e)?;
        let (classifier, vocab) = file.classifier(&hidden, width)?;
        let targets_view = file.tensor(targets, "store the next tokens as `targets`, [tokens]")?;
        let targets_read = file.indices(targets, &targets_view)?;
        file.expect_shape(targets, &targets_view, &[tokens], "[N]", "one target a row of `e` is needed")?;
        file.check_targets(targets, &targets_read, vocab)?;
        let references = match targets {
            "targets" => file.references(tokens, width, vocab)?,
            _ => References::default(),
        };
        Ok(Head { tokens, width, vocab, hidden, classifier, targets: targets_read, references })
    }
}

fn damaged(path: &Path, error: &SafeTensorError) -> Error {
    Error::NotSafetensors { path: path.into(), reason: error.to_string() }
}

struct File<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
}

impl<'a> File<'a> {
    fn path(&self) -> PathBuf {
        self.path.into()
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.names().contains(&name)
    }

    fn tensor(&self, name: &str, help: &'static str) -> Result<TensorView<'a>, Error> {
        self.tensors.tensor(name).map_err(|error| match error {
            SafeTensorError::TensorNotFound(_) => self.missing(name, help),
            other => damaged(self.path, &other),
        })
    }

    fn missing(&self, name: &str, help: &'static str) -> Error {
        let mut present: Vec<String> = self.tensors.names().into_iter().map(str::to_owned).collect();
        present.sort();
        Error::MissingTensor { path: self.path(), name: name.to_owned(), present, help }
    }

    fn matrix(&self, name: &str, view: &TensorView, expected: &str) -> Result<[usize; 2], Error> {
        <[usize; 2]>::try_from(view.shape()).map_err(|_| Error::TensorShape {
            path: self.path(),
            name: name.to_owned(),
            expected: expected.to_owned(),
            found: view.shape().to_vec(),
            help: "flatten batch and sequence into one dimension of tokens",
        })
    }

    fn expect_shape(
        &self,
        name: &str,
        view: &TensorView,
        shape: &[usize],
        letters: &str,
        help: &'static str,
    ) -> Result<(), Error> {
        if view.shape() == shape {
            return Ok(());
        }
        Err(Error::TensorShape {
            path: self.path(),
            name: name.to_owned(),
            expected: format!("{letters} = {shape:?}"),
            found: view.shape().to_vec(),
            help,
        })
    }

    fn wrong_type(&self, name: &str, view: &TensorView, expected: &'static str, help: &'static str) -> Error {
        Error::TensorType {
            path: self.path(),
            name: name.to_owned(),
            expected,
            found: format!("{:?}", view.dtype()),
            help,
        }
    }

    fn elements(&self, name: &str, view: &TensorView) -> Result<Elements, Error> {
        let data = view.data();
        match view.dtype() {
            Dtype::F32 => Ok(Elements::F32(numbers(data, f32::from_le_bytes))),
            Dtype::F16 => Ok(Elements::F16(numbers(data, f16::from_le_bytes))),
            Dtype::BF16 => Ok(Elements::Bf16(numbers(data, bf16::from_le_bytes))),
            _ => Err(self.wrong_type(name, view, "F32, F16 or BF16", "convert it before saving")),
        }
    }

    fn indices(&self, name: &str, view: &TensorView) -> Result<Targets, Error> {
        match view.dtype() {
            Dtype::I32 => Ok(Targets::I32(numbers(view.data(), i32::from_le_bytes))),
            Dtype::I64 => Ok(Targets::I64(numbers(view.data(), i64::from_le_bytes))),
            _ => Err(self.wrong_type(name, view, "I32 or I64", "convert it before saving")),
        }
    }

    fn classifier(&self, hidden: &Elements, width: usize) -> Result<(Elements, usize), Error> {
        const WIDTH: &str = "the classifier's rows must be as long as those of `e`";
        if self.has("c") {
            let c = self.tensor("c", "")?;
            let [vocab, _] = self.matrix("c", &c, "[V, D]")?;
            self.expect_shape("c", &c, &[vocab, width], "[V, D]", WIDTH)?;
            let classifier = self.elements("c", &c)?;
            if classifier.dtype() != hidden.dtype() {
                let expected = match hidden {
                    Elements::F32(_) => "F32, as `e` is",
                    Elements::F16(_) => "F16, as `e` is",
                    Elements::Bf16(_) => "BF16, as `e` is",
                };
                return Err(self.wrong_type("c", &c, expected, "convert one of the two before saving"));
            }
            return Ok((classifier, vocab));
        }
        if !self.has("c_q") {
            return Err(self.missing(
                "c (nor c_q)",
                "store the classifier as `c`, [vocabulary, hidden size], or as `c_q` and `c_scale`",
            ));
        }
        let q = self.tensor("c_q", "")?;
        let [vocab, _] = self.matrix("c_q", &q, "[V, D]")?;
        self.expect_shape("c_q", &q, &[vocab, width], "[V, D]", WIDTH)?;
        if q.dtype() != Dtype::I8 {
            return Err(self.wrong_type("c_q", &q, "I8", "store the codes as signed bytes"));
        }
        let scale = self.tensor("c_scale", "`c_q` needs one f16 scale for every 32 codes of a row")?;
        if !width.is_multiple_of(BLOCK) {
            return Err(Error::TensorShape {
                path: self.path(),
                name: "c_q".to_owned(),
                expected: "[V, a multiple of 32]".to_owned(),
                found: q.shape().to_vec(),
                help: "store the classifier unquantised, as `c`",
            });
        }
        let blocks = width / BLOCK;
        self.expect_shape(
            "c_scale",
            &scale,
            &[vocab, blocks],
            "[V, D / 32]",
            "store one scale for every 32 codes of a row",
        )?;
        if scale.dtype() != Dtype::F16 {
            return Err(self.wrong_type("c_scale", &scale, "F16", "store the scales as half precision"));
        }
        let scales: Vec<f16> = numbers(scale.data(), f16::from_le_bytes);
        let codes = q.data();
        let decode = |(code, scale): (&[u8], &f16)| -> Vec<bf16> {
            code.iter().map(|&byte| bf16::from_f32(scale.to_f32() * f32::from(byte.cast_signed()))).collect()
        };
        let decoded: Vec<bf16> =
            codes.par_chunks(BLOCK).zip(&scales).with_min_len(1 << 10).flat_map_iter(decode).collect();
        Ok((Elements::Bf16(decoded).converted(hidden.dtype()), vocab))
    }

    fn check_targets(&self, name: &str, targets: &Targets, vocab: usize) -> Result<(), Error> {
        let outside = |&at: &usize| {
            let target = targets.get(at);
            target != IGNORED && usize::try_from(target).map_or(true, |t| t >= vocab)
        };
        match (0..targets.len()).find(outside) {
            None => Ok(()),
            Some(at) => Err(Error::IndexOutside {
                path: self.path(),
                name: name.to_owned(),
                at,
                found: targets.get(at),
                expected: format!("0..{vocab} or {IGNORED} (ignored)"),
            }),
        }
    }

    fn references(&self, tokens: usize, width: usize, vocab: usize) -> Result<References, Error> {
        let mut references = References {
            lse: self.per_token("lse", tokens)?,
            loss: self.per_token("loss", tokens)?,
            ..References::default()
        };
        if self.has("de_rows") {
            let view = self.tensor("de_rows", "")?;
            let [rows, _] = self.matrix("de_rows", &view, "[up to N, D]")?;
            let shape = [rows.min(tokens), width];
            self.expect_shape(
                "de_rows",
                &view,
                &shape,
                "[up to N, D]",
                "store the first rows of dE, or leave it out",
            )?;
            references.hidden_gradient = Some(self.f32s("de_rows", &view)?);
        }
        if self.has("dc_rows") || self.has("dc_rows_idx") {
            const BOTH: &str = "`dc_rows` and `dc_rows_idx` go together; leave out both or none";
            let index = self.tensor("dc_rows_idx", BOTH)?;
            let rows = self.tensor("dc_rows", BOTH)?;
            let numbers = self.indices("dc_rows_idx", &index)?;
            self.expect_shape("dc_rows_idx", &index, &[numbers.len()], "[K]", BOTH)?;
            let shape = [numbers.len(), width];
            self.expect_shape("dc_rows", &rows, &shape, "[K, D]", "store a row of dC for every index")?;
            let mut which = Vec::with_capacity(numbers.len());
            for at in 0..numbers.len() {
                match usize::try_from(numbers.get(at)) {
                    Ok(row) if row < vocab => which.push(row),
                    _ => {
                        return Err(Error::IndexOutside {
                            path: self.path(),
                            name: "dc_rows_idx".to_owned(),
                            at,
                            found: numbers.get(at),
                            expected: format!("0..{vocab}"),
                        });
                    }
                }
            }
            references.classifier_gradient = Some((which, self.f32s("dc_rows", &rows)?));
        }
        Ok(references)
    }

    fn per_token(&self, name: &str, tokens: usize) -> Result<Option<Vec<f64>>, Error> {
        if !self.has(name) {
            return Ok(None);
        }
        let view = self.tensor(name, "")?;
        self.expect_shape(name, &view, &[tokens], "[N]", "store one value a token, or leave it out")?;
        match view.dtype() {
            Dtype::F64 => Ok(Some(numbers(view.data(), f64::from_le_bytes))),
            Dtype::F32 => Ok(Some(numbers(view.data(), |b| f64::from(f32::from_le_bytes(b))))),
            _ => Err(self.wrong_type(name, &view, "F64 or F32", "convert it before saving, or leave it out")),
        }
    }

    fn f32s(&self, name: &str, view: &TensorView) -> Result<Vec<f32>, Error> {
        match view.dtype() {
            Dtype::F32 => Ok(numbers(view.data(), f32::from_le_bytes)),
            _ => Err(self.wrong_type(name, view, "F32", "convert it before saving, or leave it out")),
        }
    }
}

/// Little-endian numbers of `BYTES` bytes each; safetensors has checked that the length is a multiple.
fn numbers<T, const BYTES: usize>(data: &[u8], read: impl Fn([u8; BYTES]) -> T + Sync) -> Vec<T>
where
    T: Send,
{
    data.par_chunks_exact(BYTES)
        .with_min_len(1 << 14)
        .map(|chunk| {
            let mut bytes = [0; BYTES];
            bytes.copy_from_slice(chunk);
            read(bytes)
        })
        .collect()
}
