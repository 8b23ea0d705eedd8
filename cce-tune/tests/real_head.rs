//! The head of a real model, where `CCE_TEST_HEAD` names its file; without the variable there is nothing to
//! test, with it a file that is not right is a failure.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use cce_codegen::problem::DType;
use cce_tune::data::Head;

fn head() -> Option<Head> {
    let Some(path) = std::env::var_os("CCE_TEST_HEAD") else {
        eprintln!("CCE_TEST_HEAD is not set: the real head is not tested");
        return None;
    };
    Some(Head::load(path).unwrap())
}

#[test]
fn its_logits_give_the_lse_and_the_loss_that_the_file_states() {
    let Some(head) = head() else { return };
    assert_eq!(head.dtype(), DType::Bf16);
    let (lse, loss) = (head.references.lse.clone().unwrap(), head.references.loss.clone().unwrap());
    for token in (0..head.tokens).step_by(head.tokens / 7) {
        let z = head.logits(token);
        let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let found = largest + z.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
        assert!((found - lse[token]).abs() < 1e-9, "token {token}: {found}, stated {}", lse[token]);
        let found = found - z[head.targets.get(token) as usize];
        assert!((found - loss[token]).abs() < 1e-9, "token {token}: {found}, stated {}", loss[token]);
    }
}

#[test]
fn its_first_rows_of_the_gradient_follow_from_its_logits() {
    let Some(head) = head() else { return };
    let stated = head.references.hidden_gradient.clone().unwrap();
    let classifier = head.classifier.to_f32();
    for token in [0, 63] {
        let z = head.logits(token);
        let lse = head.references.lse.as_ref().unwrap()[token];
        let mut row = vec![0.0f64; head.width];
        for (entry, x) in z.iter().enumerate() {
            let hit = f64::from(u8::from(entry as i64 == head.targets.get(token)));
            let g = ((x - lse).exp() - hit) / head.tokens as f64;
            let c = &classifier[entry * head.width..(entry + 1) * head.width];
            row.iter_mut().zip(c).for_each(|(sum, &c)| *sum += g * f64::from(c));
        }
        let stated = &stated[token * head.width..(token + 1) * head.width];
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let difference = norm(&mut row.iter().zip(stated).map(|(a, &b)| a - f64::from(b)));
        let error = difference / norm(&mut row.iter().copied());
        assert!(error < 1e-6, "token {token}: {error}");
    }
}
