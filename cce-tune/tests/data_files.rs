//! `--data`: files with references, with wrong references, and broken ones.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use cce_codegen::problem::DType;
use cce_tune::data::{Elements, Head};
use common::Tuner;
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::path::Path;

/// A small head and its references in f64, written as a safetensors file; `spoil` changes dE before it is
/// written.
fn write_head(path: &Path, spoil: f32) -> f64 {
    write_head_with_ignored(path, spoil, &[])
}

/// The same, where these tokens are ignored: their losses are 0 and their `lse` is nothing, gradients are of
/// the mean over the others.
fn write_head_with_ignored(path: &Path, spoil: f32, ignored: &[usize]) -> f64 {
    let (n, d, v) = (24, 16, 700);
    let counted = n - ignored.len();
    let head = Head::generated(n, d, v, 3, DType::F32);
    let (mut lse, mut loss) = (Vec::new(), Vec::new());
    let (mut de, mut dc) = (vec![0.0f64; n * d], vec![0.0f64; v * d]);
    let (Elements::F32(e), Elements::F32(c)) = (&head.hidden, &head.classifier) else { panic!("not f32") };
    for token in 0..n {
        if ignored.contains(&token) {
            lse.push(f64::NAN);
            loss.push(0.0);
            continue;
        }
        let z = head.logits(token);
        let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        lse.push(largest + z.iter().map(|x| (x - largest).exp()).sum::<f64>().ln());
        let target = head.targets.get(token) as usize;
        loss.push(lse[token] - z[target]);
        for (j, x) in z.iter().enumerate() {
            let g = ((x - lse[token]).exp() - f64::from(u8::from(j == target))) / counted as f64;
            for k in 0..d {
                de[token * d + k] += g * f64::from(c[j * d + k]);
                dc[j * d + k] += g * f64::from(e[token * d + k]);
            }
        }
    }
    let f32s = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|x| x.to_le_bytes()).collect() };
    let f64s = |values: &[f64]| -> Vec<u8> { values.iter().flat_map(|x| x.to_le_bytes()).collect() };
    let de_rows: Vec<f32> = de[..8 * d].iter().map(|&x| x as f32 + spoil).collect();
    let rows = [5i64, 600, 0];
    let dc_rows: Vec<f32> =
        rows.iter().flat_map(|&r| dc[r as usize * d..][..d].iter().map(|&x| x as f32)).collect();
    let target = |(token, target)| if ignored.contains(&token) { -100i64 } else { target };
    let targets = head.targets.to_i64().into_iter().enumerate().map(target);
    let targets: Vec<u8> = targets.flat_map(|t: i64| t.to_le_bytes()).collect();
    let tensors = [
        ("e", Dtype::F32, vec![n, d], f32s(e)),
        ("c", Dtype::F32, vec![v, d], f32s(c)),
        ("targets", Dtype::I64, vec![n], targets),
        ("lse", Dtype::F64, vec![n], f64s(&lse)),
        ("loss", Dtype::F64, vec![n], f64s(&loss)),
        ("de_rows", Dtype::F32, vec![8, d], f32s(&de_rows)),
        ("dc_rows_idx", Dtype::I64, vec![3], rows.iter().flat_map(|r| r.to_le_bytes()).collect()),
        ("dc_rows", Dtype::F32, vec![3, d], f32s(&dc_rows)),
    ];
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    std::fs::write(path, serialize(views, None).unwrap()).unwrap();
    loss.iter().sum::<f64>() / counted as f64
}

fn flags<'a>(file: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    [&["--gpu", "cpu", "--data", file, "--candidates", "2"], rest].concat()
}

#[test]
fn results_are_compared_with_the_files_references() {
    let tuner = Tuner::new();
    let file = tuner.path("head.safetensors");
    let mean = write_head(Path::new(&file), 0.0);
    let value = tuner.run(&flags(&file, &["--filter", "exact", "--json"])).ok().json();
    let lines = value["devices"][0]["references"]["lines"].as_array().unwrap().clone();
    let whats: Vec<&str> = lines.iter().map(|line| line["what"].as_str().unwrap()).collect();
    assert_eq!(whats, ["mean loss", "loss a token", "lse", "rows of dE", "rows of dC"]);
    for line in &lines {
        assert!(line["error"].as_f64().unwrap() <= line["limit"].as_f64().unwrap(), "{line}");
    }
    assert!((lines[0]["values"][1].as_f64().unwrap() - mean).abs() < 1e-9 * mean);
    let text = tuner.run(&flags(&file, &["--filter", "exact"])).ok().stdout;
    assert!(text.contains("rows of dC") && text.contains("right") && !text.contains("WRONG"), "{text}");
}

#[test]
fn results_that_differ_from_the_references_are_shown_and_end_with_their_own_code() {
    let tuner = Tuner::new();
    let file = tuner.path("head.safetensors");
    write_head(Path::new(&file), 0.01);
    let ran = tuner.run(&flags(&file, &["--filter", "exact"]));
    assert_eq!(ran.code, Some(4), "{}\n{}", ran.stdout, ran.stderr);
    let wrong: Vec<&str> = ran.stdout.lines().filter(|line| line.contains("WRONG")).collect();
    assert_eq!(wrong.len(), 1, "{}", ran.stdout);
    assert!(wrong[0].contains("rows of dE"), "{}", wrong[0]);
}

#[test]
fn beside_sampled_gradients_exact_ones_are_compared_with_the_rows_so_that_noise_hides_no_bias() {
    let tuner = Tuner::new();
    let file = tuner.path("head.safetensors");
    // Little is exact: the noise of a run is many times what a bias may be.
    let noisy = ["--filter", "sampled:2^-3,100"];
    let lines = |spoil: f32, code: i32| {
        write_head(Path::new(&file), spoil);
        let ran = tuner.run(&flags(&file, &[&noisy[..], &["--json"]].concat()));
        assert_eq!(ran.code, Some(code), "{}{}", ran.stdout, ran.stderr);
        let lines = ran.json()["devices"][0]["references"]["lines"].as_array().unwrap().clone();
        let whats = lines.iter().map(|line| line["what"].as_str().unwrap().to_owned());
        assert_eq!(
            whats.skip(3).collect::<Vec<_>>(),
            ["rows of dE, exact", "rows of dC, exact", "sampled gradients"]
        );
        [lines[3].clone(), lines[4].clone(), lines[5].clone()]
    };
    let is_right = |line: &serde_json::Value| line["wrong"].is_null();
    let [de, dc, all] = lines(0.0, 0);
    assert!(is_right(&de) && is_right(&dc) && is_right(&all));
    let of = |line: &serde_json::Value, field: &str| line[field].as_f64().unwrap();
    assert!(of(&all, "error") > 0.03 && all["limit"].is_null(), "{all}");
    // About the noise of a run.
    let [de, dc, all] = lines(7e-4, 4);
    assert!(!is_right(&de) && of(&de, "error") < 2.0 * of(&all, "error"), "{de} {all}");
    assert!(is_right(&dc) && is_right(&all));
    let text = tuner.run(&flags(&file, &noisy)).stdout;
    let of_all = text.lines().find(|line| line.starts_with("sampled gradients")).unwrap();
    assert!(of_all.contains("right") && of_all.contains("noise, no bias"), "{text}");
}

#[test]
fn another_loss_or_fewer_tokens_take_only_the_references_that_hold() {
    let tuner = Tuner::new();
    let file = tuner.path("head.safetensors");
    write_head(Path::new(&file), 0.0);
    let other = tuner.run(&flags(&file, &["--loss", "z_loss", "--json"])).ok().json();
    assert!(other["devices"][0]["references"]["lines"].as_array().unwrap().is_empty());
    let why = other["devices"][0]["references"]["not_compared"][0].as_str().unwrap();
    assert!(why.contains("plain cross entropy; z_loss was tuned"), "{why}");
    let rounded = tuner.run(&flags(&file, &["--dtype", "bf16"])).ok().stdout;
    let why =
        "not compared: the file's references, which are of its f32 inputs; bf16 was tuned, leave out --dtype";
    assert!(rounded.contains(why), "{rounded}");
    let fewer = tuner.run(&flags(&file, &["--tokens", "10", "--json"])).ok().json();
    let lines = fewer["devices"][0]["references"]["lines"].as_array().unwrap().len();
    assert_eq!(lines, 3);
    let text = tuner.run(&flags(&file, &["--tokens", "10"])).ok().stdout;
    assert!(text.contains("not compared: the file's gradients"), "{text}");
    assert_eq!(fewer["devices"][0]["problem"]["tokens"], 10);
}

#[test]
fn where_tokens_are_ignored_the_others_are_compared() {
    let tuner = Tuner::new();
    let file = tuner.path("head.safetensors");
    let mean = write_head_with_ignored(Path::new(&file), 0.0, &[0, 5, 23]);
    let ran = tuner.run(&flags(&file, &["--filter", "exact", "--json"])).ok().json();
    let lines = ran["devices"][0]["references"]["lines"].as_array().unwrap().clone();
    assert_eq!(lines.len(), 5);
    for line in &lines {
        assert!(line["error"].as_f64().unwrap() <= line["limit"].as_f64().unwrap(), "{line}");
    }
    assert!((lines[0]["values"][1].as_f64().unwrap() - mean).abs() < 1e-9 * mean);
    write_head_with_ignored(Path::new(&file), 0.01, &[0, 5, 23]);
    assert_eq!(tuner.run(&flags(&file, &["--filter", "exact"])).code, Some(4));
    let contradiction = tuner.run(&flags(&file, &["--no-ignored"]));
    assert_eq!(contradiction.code, Some(2));
    assert!(contradiction.stderr.contains("leave out --no-ignored"), "{}", contradiction.stderr);
}

#[test]
fn broken_files_and_contradictions_are_said_in_words() {
    let tuner = Tuner::new();
    let file = tuner.path("broken.safetensors");
    std::fs::write(&file, b"certainly not tensors").unwrap();
    let broken = tuner.run(&flags(&file, &[]));
    assert_eq!(broken.code, Some(1));
    assert!(broken.stderr.contains("no safetensors file or a damaged one"), "{}", broken.stderr);
    let absent = tuner.run(&flags("absent.safetensors", &[]));
    assert_eq!(absent.code, Some(1));
    assert!(absent.stderr.contains("cannot read absent.safetensors"), "{}", absent.stderr);
    let file = tuner.path("head.safetensors");
    write_head(Path::new(&file), 0.0);
    let contradiction = tuner.run(&flags(&file, &["--vocab", "5"]));
    assert_eq!(contradiction.code, Some(2));
    assert!(contradiction.stderr.contains("--vocab comes from the file"), "{}", contradiction.stderr);
}
