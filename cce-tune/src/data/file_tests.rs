//! Files good and bad.

use super::*;
use cce_codegen::problem::DType;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::path::PathBuf;

/// A file under construction: name, type, shape, bytes.
#[derive(Default)]
struct Draft(Vec<(&'static str, Dtype, Vec<usize>, Vec<u8>)>);

impl Draft {
    fn with(mut self, name: &'static str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Draft {
        self.0.retain(|tensor| tensor.0 != name);
        self.0.push((name, dtype, shape.to_vec(), bytes));
        self
    }

    fn f32(self, name: &'static str, shape: &[usize], values: &[f32]) -> Draft {
        self.with(name, Dtype::F32, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    fn i32(self, name: &'static str, shape: &[usize], values: &[i32]) -> Draft {
        self.with(name, Dtype::I32, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    /// Two tokens, hidden size 2, three entries.
    fn good() -> Draft {
        Draft::default()
            .f32("e", &[2, 2], &[1.0, 2.0, 3.0, 4.0])
            .f32("c", &[3, 2], &[0.5, 0.25, 1.0, 0.0, -1.0, 2.0])
            .i32("targets", &[2], &[2, -100])
    }

    fn write(&self) -> (tempfile::TempDir, PathBuf) {
        let views = self.0.iter().map(|(name, dtype, shape, bytes)| {
            (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        let bytes = serialize(views, None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head.safetensors");
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn load(&self) -> Result<Head, crate::Error> {
        let (_folder, path) = self.write();
        Head::load(&path)
    }

    fn refused(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

#[test]
fn a_file_of_hidden_states_classifier_and_targets_is_read() {
    let head = Draft::good().load().unwrap();
    assert_eq!((head.tokens, head.width, head.vocab), (2, 2, 3));
    assert_eq!(head.dtype(), DType::F32);
    assert_eq!(head.classifier, Elements::F32(vec![0.5, 0.25, 1.0, 0.0, -1.0, 2.0]));
    assert_eq!(head.targets, Targets::I32(vec![2, -100]));
    assert_eq!(head.logit(1, 2), 5.0);
    assert!(head.references.is_empty());
}

#[test]
fn references_are_read_when_present() {
    let head = Draft::good()
        .f32("loss", &[2], &[1.0, 3.0])
        .f32("de_rows", &[1, 2], &[7.0, 8.0])
        .i32("dc_rows_idx", &[1], &[2])
        .f32("dc_rows", &[1, 2], &[9.0, 10.0])
        .load()
        .unwrap();
    assert_eq!(head.references.mean_loss(), Some(2.0));
    assert_eq!(head.references.lse, None);
    assert_eq!(head.references.hidden_gradient, Some(vec![7.0, 8.0]));
    assert_eq!(head.references.classifier_gradient, Some((vec![2], vec![9.0, 10.0])));
}

#[test]
fn quantised_codes_are_scaled_in_fp32_and_rounded_to_bf16() {
    let scale = [0.1f32, 0.003, 2.0, 0.7].map(f16::from_f32);
    let codes: Vec<i8> = (0..128).map(|i| (i * 37 % 255 - 127) as i8).collect();
    let head = Draft::default()
        .with("e", Dtype::BF16, &[1, 64], vec![0; 128])
        .with("c_q", Dtype::I8, &[2, 64], codes.iter().map(|&q| q as u8).collect())
        .with("c_scale", Dtype::F16, &[2, 2], scale.iter().flat_map(|x| x.to_le_bytes()).collect())
        .i32("targets", &[1], &[0])
        .load()
        .unwrap();
    let expected: Vec<bf16> = codes
        .iter()
        .enumerate()
        .map(|(i, &q)| bf16::from_f32(scale[i / 32].to_f32() * f32::from(q)))
        .collect();
    assert_eq!(head.classifier, Elements::Bf16(expected));
}

#[test]
fn a_missing_tensor_is_named_with_those_that_are_there() {
    let mut draft = Draft::good();
    draft.0.retain(|tensor| tensor.0 != "c");
    let message = draft.refused();
    assert!(message.contains("has no tensor c (nor c_q); it has e, targets"), "{message}");
    let mut draft = Draft::good();
    draft.0.retain(|tensor| tensor.0 != "targets");
    assert!(draft.refused().contains("has no tensor targets; it has c, e;"));
}

#[test]
fn wrong_shapes_say_what_was_expected_and_found() {
    let message = Draft::good().f32("c", &[2, 3], &[0.0; 6]).refused();
    assert!(message.contains("expected shape [V, D] = [2, 2], found [2, 3]"), "{message}");
    let message = Draft::good().f32("e", &[1, 2, 2], &[0.0; 4]).refused();
    assert!(message.contains("expected shape [N, D], found [1, 2, 2]; flatten"), "{message}");
    let message = Draft::good().i32("targets", &[3], &[0; 3]).refused();
    assert!(message.contains("expected shape [N] = [2], found [3]"), "{message}");
    let message = Draft::good().f32("lse", &[1], &[0.0]).refused();
    assert!(message.contains("tensor lse"), "{message}");
    let message = Draft::good().f32("dc_rows", &[1, 2], &[0.0; 2]).refused();
    assert!(message.contains("has no tensor dc_rows_idx"), "{message}");
}

#[test]
fn wrong_types_say_what_was_expected_and_found() {
    let message = Draft::good().f32("targets", &[2], &[0.0; 2]).refused();
    assert!(message.contains("expected I32 or I64, found F32"), "{message}");
    let message = Draft::good().with("e", Dtype::F64, &[1, 1], vec![0; 8]).refused();
    assert!(message.contains("expected F32, F16 or BF16, found F64"), "{message}");
    let message = Draft::good().with("c", Dtype::BF16, &[3, 2], vec![0; 12]).refused();
    assert!(message.contains("expected F32, as `e` is, found BF16"), "{message}");
}

#[test]
fn targets_outside_the_vocabulary_are_named() {
    let message = Draft::good().i32("targets", &[2], &[0, 3]).refused();
    assert!(message.contains("element 1 is 3, expected 0..3 or -100"), "{message}");
    assert!(Draft::good().i32("targets", &[2], &[-1, 0]).refused().contains("element 0 is -1"));
}

#[test]
fn a_damaged_file_is_said_to_be_one() {
    let (_folder, path) = Draft::good().write();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    let message = Head::load(&path).unwrap_err().to_string();
    assert!(message.contains("no safetensors file or a damaged one"), "{message}");
    std::fs::write(&path, b"hello").unwrap();
    assert!(Head::load(&path).is_err());
    let message = Head::load(path.with_extension("absent")).unwrap_err().to_string();
    assert!(message.contains("cannot read"), "{message}");
}

#[test]
fn fewer_tokens_keep_the_references_that_still_hold() {
    let head =
        Draft::good().f32("loss", &[2], &[1.0, 3.0]).f32("de_rows", &[1, 2], &[7.0, 8.0]).load().unwrap();
    let first = head.first_tokens(1);
    assert_eq!((first.tokens, first.hidden.len(), first.targets.len()), (1, 2, 1));
    assert_eq!(first.references.mean_loss(), Some(1.0));
    assert_eq!(first.references.hidden_gradient, None);
}
