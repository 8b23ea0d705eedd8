use proptest::prelude::*;

use super::frame::{Step, step, write_frame};
use super::scan::{Ends, scan};
use super::*;

fn framed(payloads: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    for payload in payloads {
        write_frame(payload.as_bytes(), &mut out).unwrap();
    }
    out
}

fn read(bytes: &[u8]) -> (Vec<String>, Ends) {
    let mut found = Vec::new();
    let ends = scan(bytes, |payload| {
        found.push(String::from_utf8(payload.to_vec()).unwrap());
        Ok::<(), ()>(())
    });
    (found, ends.unwrap().unwrap())
}

/// Hands out a few bytes at a time, as a pipe would.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.1.min(out.len()).min(self.0.len());
        out[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_are_read_back_whatever_the_payloads_and_read_sizes(
        payloads in prop::collection::vec(".{0,200}", 0..12), size in 1_usize..64,
    ) {
        let bytes = framed(&payloads);
        let mut found = Vec::new();
        let ends = scan(Trickle(&bytes, size), |p| {
            found.push(String::from_utf8(p.to_vec()).unwrap());
            Ok::<(), ()>(())
        }).unwrap().unwrap();
        prop_assert_eq!(&found, &payloads);
        prop_assert_eq!(ends.settled, bytes.len() as u64);
        prop_assert_eq!(ends.report.damaged_bytes + ends.report.torn_bytes, 0);
    }

    #[test]
    fn cut_anywhere_every_whole_frame_is_kept_and_the_rest_is_a_torn_tail(
        payloads in prop::collection::vec(".{0,40}", 1..6),
    ) {
        let bytes = framed(&payloads);
        let ends: Vec<_> = payloads.iter().scan(0, |at, p| { *at += 16 + p.len(); Some(*at) }).collect();
        for cut in 0..=bytes.len() {
            let whole = ends.iter().filter(|end| **end <= cut).count();
            let kept = if whole == 0 { 0 } else { ends[whole - 1] };
            let (found, scanned) = read(&bytes[..cut]);
            prop_assert_eq!(&found[..], &payloads[..whole]);
            prop_assert_eq!(scanned.settled, kept as u64);
            prop_assert_eq!(scanned.report.torn_bytes, (cut - kept) as u64);
            prop_assert_eq!(scanned.report.damaged_bytes, 0);
        }
    }

    #[test]
    fn one_damaged_byte_costs_one_record_at_most(
        payloads in prop::collection::vec(".{0,40}", 1..6), xor in 1_u8..,
    ) {
        let bytes = framed(&payloads);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= xor;
            let (found, _) = read(&damaged);
            prop_assert_eq!(found.len(), payloads.len() - 1, "byte {}", at);
            prop_assert!(found.iter().all(|p| payloads.contains(p)));
        }
    }

    #[test]
    fn garbage_is_skipped_wherever_it_stands(
        before in prop::collection::vec(any::<u8>(), 0..200),
        after in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = before;
        write_frame(b"{}", &mut bytes).unwrap();
        bytes.extend(after);
        let (found, ends) = read(&bytes);
        prop_assert_eq!(found, ["{}"]);
        prop_assert_eq!(ends.report.damaged_bytes + ends.report.torn_bytes, bytes.len() as u64 - 18);
    }
}

#[test]
fn a_payload_beyond_the_limit_is_refused_and_one_at_the_limit_is_read() {
    let mut out = Vec::new();
    assert!(matches!(
        write_frame(&vec![b'x'; frame::MAX_PAYLOAD + 1], &mut out),
        Err(Error::TooLarge { .. })
    ));
    assert!(out.is_empty());
    write_frame(&vec![b'x'; frame::MAX_PAYLOAD], &mut out).unwrap();
    assert!(matches!(step(&out), Step::Frame { length, .. } if length == out.len()));
    assert_eq!(read(&out).0.len(), 1);
}

fn log_in(folder: &Path) -> Log {
    Log::in_folder(folder, Duration::from_secs(5))
}

fn contents(log: &Log) -> Vec<String> {
    let mut found = Vec::new();
    log.scan(None, |payload| {
        found.push(String::from_utf8(payload.to_vec()).unwrap());
        Ok(())
    })
    .unwrap();
    found
}

fn bytes(payloads: &[&str]) -> Vec<Vec<u8>> {
    payloads.iter().map(|p| p.as_bytes().to_vec()).collect()
}

#[test]
fn at_every_truncation_point_a_new_writer_keeps_the_whole_records_and_appends_behind_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trials.log");
    log_in(folder.path()).append(&bytes(&["one", "two", "three"])).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..=whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let kept = contents(&log_in(folder.path()));
        let expected = ["one", "two", "three"].iter().take(kept.len()).copied();
        assert!(expected.eq(kept.iter().map(String::as_str)), "cut at {cut}: {kept:?}");
        log_in(folder.path()).append(&bytes(&["new"])).unwrap();
        let after = contents(&log_in(folder.path()));
        assert_eq!(after[..kept.len()], kept[..], "cut at {cut}");
        assert_eq!(after[kept.len()..], ["new"], "cut at {cut}");
        let (_, report) = log_in(folder.path()).scan(None, |_| Ok(())).unwrap();
        assert_eq!((report.torn_bytes, report.damaged_bytes), (0, 0), "cut at {cut}");
    }
}

#[test]
fn a_damaged_header_sets_a_copy_aside_and_keeps_every_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trials.log");
    log_in(folder.path()).append(&bytes(&["one", "two"])).unwrap();
    let mut damaged = std::fs::read(&path).unwrap();
    damaged[20] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    assert_eq!(contents(&log_in(folder.path())), ["one", "two"]);
    log_in(folder.path()).append(&bytes(&["three"])).unwrap();
    assert_eq!(contents(&log_in(folder.path())), ["one", "two", "three"]);
    let aside = std::fs::read_dir(folder.path()).unwrap().find_map(|entry| {
        let entry = entry.unwrap();
        entry.file_name().to_string_lossy().contains(".aside-").then(|| entry.path())
    });
    assert_eq!(std::fs::read(aside.unwrap()).unwrap(), damaged);
}

#[test]
fn a_log_of_a_later_format_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trials.log");
    let mut later = header([1; 8]);
    later[12] = 2;
    let check = blake3::hash(&later[..24]);
    later[24..].copy_from_slice(&check.as_bytes()[..8]);
    std::fs::write(&path, later).unwrap();
    let error = log_in(folder.path()).append(&bytes(&["x"])).unwrap_err();
    assert!(matches!(error, Error::Newer { found: 2, known: 1, .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), later);
}

#[test]
fn a_scan_resumes_where_the_last_one_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = log_in(folder.path());
    log.append(&bytes(&["one"])).unwrap();
    let (position, _) = log.scan(None, |_| Ok(())).unwrap();
    log.append(&bytes(&["two", "three"])).unwrap();
    let mut found = 0;
    log.scan(Some(position), |_| {
        found += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(found, 2);
    assert_eq!(log.bytes_behind(position).unwrap(), Some(2 * 16 + 8));
    let other = Position { log: [0; 8], ..position };
    assert_eq!(log.bytes_behind(other).unwrap(), None);
}

#[test]
fn portions_together_are_the_whole_log_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = log_in(folder.path());
    let payloads: Vec<_> =
        (0..23_u32).map(|i| format!("{i} {}", "x".repeat(400_000 + 1000 * i as usize))).collect();
    for batch in payloads.chunks(5) {
        log.append(&batch.iter().map(|p| p.as_bytes().to_vec()).collect::<Vec<_>>()).unwrap();
    }
    assert!(std::fs::metadata(&log.path).unwrap().len() > 2 * PORTION);
    let (mut found, mut portions) = (Vec::new(), 0);
    let position = log.scan_in_portions(None, |portion| {
        found.extend(portion.into_iter().map(|p| String::from_utf8(p).unwrap()));
        portions += 1;
        Ok::<(), Error>(())
    });
    assert!(found == payloads, "{} of {} records", found.len(), payloads.len());
    assert!(portions > 2, "{portions}");
    assert_eq!(position.unwrap(), log.scan(None, |_| Ok(())).unwrap().0);
}

#[test]
fn portions_end_at_a_torn_tail() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = log_in(folder.path());
    log.append(&bytes(&["one"])).unwrap();
    let whole = std::fs::read(&log.path).unwrap();
    std::fs::write(&log.path, [&whole[..], &whole[32..40]].concat()).unwrap();
    let position = log.scan_in_portions(None, |_| Ok::<(), Error>(())).unwrap();
    assert_eq!(position.offset, whole.len() as u64);
}
