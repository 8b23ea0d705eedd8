//! Values on the command line: sizes in bytes, filters, types, scalars.

use cce_codegen::problem::{DType, Filter};
use cce_runtime::Gradients;
use std::str::FromStr;
use std::time::Duration;

/// `512M`, `1.5G`, `2GiB`, `1000000`: powers of 1024.
pub fn bytes(text: &str) -> Result<u64, String> {
    let expected = || format!("expected bytes such as 512M, 1.5G or 1000000, found {text}");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(expected()),
    };
    let number: f64 = number.parse().map_err(|_| expected())?;
    let bytes = number * (1u64 << shift) as f64;
    if bytes < 1.0 || bytes >= u64::MAX as f64 { Err(expected()) } else { Ok(bytes as u64) }
}

/// `f32`, `f16`, `bf16`.
pub fn dtype(text: &str) -> Result<DType, String> {
    [DType::F32, DType::F16, DType::Bf16]
        .into_iter()
        .find(|dtype| dtype.name() == text)
        .ok_or_else(|| format!("expected f32, f16 or bf16, found {text}"))
}

/// `exact`, `sampled`, `sampled:2^-10`, `sampled:2^-10,384`, `blocks`, `blocks:2^-12`: the filters that a device offers.
pub fn filter(text: &str) -> Result<Filter, String> {
    text.parse()
}

/// What is minimised: the time of the loss, or of the loss and these gradients.
pub fn objective(text: &str) -> Result<Gradients, String> {
    match text {
        "loss" => Ok(Gradients::none()),
        "gradients" => Ok(Gradients::both()),
        "hidden" => Ok(Gradients::hidden()),
        "classifier" => Ok(Gradients::classifier()),
        _ => Err(format!(
            "expected loss (the forward pass alone), gradients (loss and both gradients), \
             hidden (loss and dE) or classifier (loss and dC), found {text}"
        )),
    }
}

/// `NAME=VALUE`, the value a finite f32.
pub fn scalar(text: &str) -> Result<(String, f32), String> {
    let parsed = text.split_once('=').and_then(|(name, value)| {
        let value = value.trim().parse::<f32>().ok().filter(|value| value.is_finite())?;
        Some((name.trim().to_owned(), value))
    });
    parsed.ok_or_else(|| format!("expected NAME=NUMBER such as cap=30, a finite number, found {text}"))
}

/// A name that says something.
pub fn name(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("expected a name, found none".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// A count of at least one.
pub fn count(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(count) if (1..=1 << 28).contains(&count) => Ok(count),
        _ => Err(format!("expected a number from 1 to {}, found {text}", 1 << 28)),
    }
}

/// How long a tuning may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(pub Option<Duration>);

/// `60s`, `1.5m`, `500ms`, `1h`, or `none`.
pub fn budget(text: &str) -> Result<Budget, String> {
    if text == "none" {
        return Ok(Budget(None));
    }
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit.trim() {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => f64::NAN,
    };
    let seconds = number.parse::<f64>().map_or(f64::NAN, |number| number * seconds);
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if time > Duration::ZERO => Ok(Budget(Some(time))),
        _ => Err(format!("expected a time such as 60s, 5m or 1h, or none, found {text}")),
    }
}

/// A share in percent, above 0.
pub fn percent(text: &str) -> Result<f64, String> {
    positive(text.trim_end_matches('%').trim())
        .map_err(|_| format!("expected a number of percent above 0, such as 10, found {text}"))
}

/// A finite number above 0.
pub fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| format!("expected a number above 0, found {text}"))
}

/// Which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gpu {
    /// The first GPU, or the CPU device where there is none.
    Auto,
    /// The CPU device.
    Cpu,
    /// A GPU by its index.
    Index(usize),
    /// Every GPU.
    All,
}

impl FromStr for Gpu {
    type Err = String;

    fn from_str(text: &str) -> Result<Gpu, String> {
        match text {
            "auto" => Ok(Gpu::Auto),
            "cpu" => Ok(Gpu::Cpu),
            "all" => Ok(Gpu::All),
            index => index
                .parse()
                .map(Gpu::Index)
                .map_err(|_| format!("expected auto, cpu, all or the index of a GPU, found {text}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_bytes_are_powers_of_1024() {
        assert_eq!(bytes("512M"), Ok(512 << 20));
        assert_eq!(bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(bytes("1000"), Ok(1000));
        for wrong in ["", "M", "-1", "5X", "1e400"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_budget_is_a_time_with_its_unit_or_none() {
        assert_eq!(budget("90s"), Ok(Budget(Some(Duration::from_secs(90)))));
        assert_eq!(budget("1.5m"), Ok(Budget(Some(Duration::from_secs(90)))));
        assert_eq!(budget("none"), Ok(Budget(None)));
        for wrong in ["", "60", "s", "-1s", "0s", "1d", "nan s", "1e400s"] {
            assert!(budget(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn filters_are_read_as_they_are_written() {
        for text in ["exact", "sampled:2^-10,384", "sampled:2^-8,100", "blocks:2^-12", "blocks:0.001"] {
            assert_eq!(filter(text).unwrap().to_string(), text);
        }
        assert_eq!(filter("sampled"), Ok(Filter::SAMPLED));
        assert_eq!(filter("sampled:2^-10"), Ok(Filter::SAMPLED));
        assert_eq!(filter("blocks"), Ok(Filter::BLOCKS));
        for wrong in
            ["", "sampled:", "sampled:0", "sampled:2^-10,x", "exact:1", "sampled:2", "blocks:", "blocks:2^1"]
        {
            let message = filter(wrong).unwrap_err();
            assert!(message.contains("expected exact, sampled,") && message.ends_with(wrong), "{message}");
        }
        let rule = filter("sampled:2^-10,0").unwrap_err();
        assert!(rule.contains("max_entries at least 2") && rule.ends_with("found sampled:2^-10,0"), "{rule}");
        assert!(filter("sampled:2^-10,2").is_ok());
    }

    #[test]
    fn devices_scalars_and_objectives_are_read() {
        assert_eq!("auto".parse(), Ok(Gpu::Auto));
        assert_eq!("3".parse(), Ok(Gpu::Index(3)));
        assert!("gpu".parse::<Gpu>().is_err());
        assert_eq!(scalar("cap=30"), Ok(("cap".to_owned(), 30.0)));
        for wrong in ["cap", "cap=x", "cap=nan", "cap=inf", "cap=1e39"] {
            assert!(scalar(wrong).is_err(), "{wrong}");
        }
        assert_eq!(objective("loss"), Ok(Gradients::none()));
        assert!(objective("speed").is_err());
        assert!(name("").is_err() && name(" ").is_err() && name("our H100 nodes").is_ok());
        assert!(count("0").is_err() && count("7").is_ok());
        assert_eq!((percent("10"), percent("2.5%")), (Ok(10.0), Ok(2.5)));
        assert!(percent("0").is_err() && percent("nan").is_err() && percent("ten").is_err());
    }
}
