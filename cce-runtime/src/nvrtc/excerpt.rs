//! The lines of an emitted source that the compiler complains about.
//!
//! NVRTC reports `name(12): error: ...`; its assembler reports `ptx input, line 21; error : ...` about the
//! PTX that it was given, which is not the emitted source. Both are shown with the offending line marked
//! and two lines around it.

use std::fmt::Write as _;

/// Errors shown before the rest is left to the log.
const MOST: usize = 3;
/// Lines shown before and after the offending one.
const AROUND: usize = 2;

/// The first few errors of `log`, each with the lines of `source` (or of `ptx`) that it is about.
pub(super) fn excerpt(log: &str, name: &str, source: &str, ptx: Option<&str>) -> String {
    let mut text = String::new();
    let (mut shown, mut last) = (0, None);
    for line in log.lines() {
        let located =
            in_source(line, name).map(|(number, message)| (name, source, number, message)).or_else(|| {
                in_ptx(line).map(|(number, message)| ("the PTX", ptx.unwrap_or_default(), number, message))
            });
        let Some((place, lines, number, message)) = located else {
            continue;
        };
        shown += 1;
        if shown > MOST {
            break;
        }
        // Two complaints about one line need its text once.
        let repeated = last.replace((place, number)) == Some((place, number));
        _ = writeln!(text, "{place}, line {number}: {message}");
        if !repeated {
            text.push_str(&numbered(lines, number));
        }
    }
    if text.is_empty() {
        "the compiler names no line; its log follows".clone_into(&mut text);
        if let Some(bytes) = too_much_shared(log) {
            _ = write!(
                text,
                "\n{bytes} bytes of static shared memory are above the 49152 that a kernel may declare"
            );
        }
    }
    text.truncate(text.trim_end().len());
    text
}

fn in_source<'a>(line: &'a str, name: &str) -> Option<(usize, &'a str)> {
    let (number, message) = line.strip_prefix(name)?.strip_prefix('(')?.split_once("): ")?;
    let is_error = message.starts_with("error") || message.starts_with("catastrophic error");
    is_error.then_some((number.parse().ok()?, message))
}

fn in_ptx(line: &str) -> Option<(usize, &str)> {
    let (_, rest) = line.split_once("ptx input, line ")?;
    let (number, message) = rest.split_once(';')?;
    message.trim_start().starts_with("error").then_some((number.parse().ok()?, message.trim()))
}

fn numbered(lines: &str, wanted: usize) -> String {
    let first = wanted.saturating_sub(AROUND).max(1);
    let mut text = String::new();
    for (index, line) in lines.lines().enumerate().skip(first - 1).take_while(|(i, _)| *i < wanted + AROUND) {
        let mark = if index + 1 == wanted { '>' } else { ' ' };
        _ = writeln!(text, "{mark} {:5} | {line}", index + 1);
    }
    text
}

fn too_much_shared(log: &str) -> Option<u32> {
    log.lines()
        .filter_map(|line| line.split_once(" bytes smem"))
        .filter_map(|(before, _)| before.rsplit(' ').next()?.parse().ok())
        .find(|bytes| *bytes > 48 * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "line one\nline two\nline three\nline four\nline five\nline six\n";

    #[test]
    fn an_error_shows_its_line_and_the_ones_around_it() {
        let log =
            "k.cu(2): warning #1: nothing\nk.cu(4): error: identifier \"b\" is undefined\n  line four\n";
        let text = excerpt(log, "k.cu", SOURCE, None);
        assert!(text.starts_with("k.cu, line 4: error: identifier"), "{text}");
        assert!(text.contains(">     4 | line four"), "{text}");
        assert!(text.contains("      2 | line two") && text.contains("      6 | line six"), "{text}");
        assert!(!text.contains("line one") && !text.contains("warning"), "{text}");
    }

    #[test]
    fn an_assembler_error_shows_the_line_of_the_ptx() {
        let log = "ptxas application ptx input, line 2; error   : Unknown modifier '.bar'\n";
        let text = excerpt(log, "k.cu", SOURCE, Some("ptx one\nptx two\nptx three"));
        assert!(text.contains("the PTX, line 2: error   : Unknown modifier"), "{text}");
        assert!(text.contains(">     2 | ptx two"), "{text}");
    }

    #[test]
    fn many_errors_are_cut_and_one_line_is_shown_once() {
        let log: String = (0..9).map(|i| format!("k.cu({}): error: bad {i}\n", 1 + i / 2)).collect();
        let text = excerpt(&log, "k.cu", SOURCE, None);
        assert_eq!(text.matches(": error:").count(), MOST);
        assert_eq!(text.matches(">     1 |").count(), 1, "{text}");
    }

    #[test]
    fn a_failure_without_a_line_says_so_and_names_too_much_shared_memory() {
        let text = excerpt(
            "ptxas info : Used 10 registers, used 1 barriers, 400000 bytes smem\n",
            "k.cu",
            SOURCE,
            None,
        );
        assert!(text.contains("names no line") && text.contains("400000 bytes"), "{text}");
    }

    #[test]
    fn a_line_number_beyond_the_source_shows_the_message_alone() {
        let text = excerpt("k.cu(900): error: far\n", "k.cu", SOURCE, None);
        assert_eq!(text, "k.cu, line 900: error: far");
    }
}
