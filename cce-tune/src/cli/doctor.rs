//! `cce-tune doctor`: what was found, and what to do about what is missing.

use super::output::{Output, bytes, counted, table};
use super::{EXIT_FAILED, EXIT_OK};
use crate::Error;
use cce_runtime::cubin_cache::CubinCache;
use cce_runtime::driver::{DeviceInfo, Devices, Driver};
use cce_runtime::nvrtc::Nvrtc;
use cce_runtime::selection;
use cce_tuning_db::{Database, Indexing, Profile, Winners};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The state of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It works.
    Ok,
    /// It is not there, and things work without it.
    Missing,
    /// It is there and does not work.
    Broken,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    what: String,
    state: State,
    found: String,
    /// What to do; empty if nothing.
    advice: String,
}

fn finding(what: &str, state: State, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { what: what.to_owned(), state, found: found.into(), advice: advice.into() }
}

/// What was found: driver, NVRTC, GPUs, folders, database, variables. As `cce-tune doctor` prints it, and as JSON.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Diagnosis {
    schema: u32,
    version: &'static str,
    findings: Vec<Finding>,
    environment: BTreeMap<&'static str, String>,
}

/// Every variable that is read, in the order of the table in docs/tuning.md.
const VARIABLES: [&str; 18] = [
    "CCE_TUNING_DIR",
    "CCE_PROFILE",
    "CCE_CACHE_DIR",
    "CCE_NVRTC_PATH",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_PATH",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "PATH",
    "PYENV_VERSION",
    "CUDA_VISIBLE_DEVICES",
    "XDG_DATA_HOME",
    "XDG_CACHE_HOME",
    "HOME",
    "RAYON_NUM_THREADS",
    "HOSTNAME",
    "CCE_TORCH_PLANS",
];

pub(super) fn run(output: &Output) -> Result<u8, Error> {
    let diagnosis = Diagnosis::now();
    output.either(|| diagnosis.text(), &diagnosis.value()?)?;
    Ok(if diagnosis.is_broken() { EXIT_FAILED } else { EXIT_OK })
}

impl Diagnosis {
    /// Looks at everything. Makes nothing, and repairs what the database repairs when it is opened.
    pub fn now() -> Diagnosis {
        let mut findings = vec![cpu()];
        let devices = driver(&mut findings);
        findings.push(nvrtc(&devices));
        findings.push(cubins());
        database(&mut findings);
        profiles(&mut findings);
        let set = |name: &&'static str| Some((*name, std::env::var_os(name)?.to_string_lossy().into_owned()));
        let environment = VARIABLES.iter().filter_map(set).collect();
        Diagnosis { schema: 1, version: env!("CARGO_PKG_VERSION"), findings, environment }
    }

    /// Adds what a caller looked at: whether it is there, what was found, and what to do, empty if nothing.
    pub fn add(&mut self, what: &str, is_there: bool, found: &str, advice: &str) {
        let state = if is_there { State::Ok } else { State::Missing };
        self.findings.push(finding(what, state, found, advice));
    }

    /// Whether something that is there does not work.
    pub fn is_broken(&self) -> bool {
        self.findings.iter().any(|finding| finding.state == State::Broken)
    }

    /// For people.
    pub fn text(&self) -> String {
        let given = |name: &&'static str| Some((*name, self.environment.get(name)?.clone()));
        let variables: Vec<(&str, String)> = VARIABLES.iter().filter_map(given).collect();
        text(&self.findings, &variables)
    }

    /// As JSON.
    ///
    /// # Errors
    /// Those of serialisation, which plain strings do not meet.
    pub fn value(&self) -> Result<serde_json::Value, Error> {
        serde_json::to_value(self).map_err(|error| Error::Json(error.to_string()))
    }
}

fn text(findings: &[Finding], variables: &[(&str, String)]) -> String {
    let mut text = format!("cce-tune {}\n\n", env!("CARGO_PKG_VERSION"));
    for finding in findings {
        let state = match finding.state {
            State::Ok => "ok",
            State::Missing => "none",
            State::Broken => "BROKEN",
        };
        let mut lines = finding.found.lines();
        text += &format!("{state:<7} {:<18} {}\n", finding.what, lines.next().unwrap_or_default());
        for line in lines {
            text += &format!("{:26} {line}\n", "");
        }
        for line in finding.advice.lines() {
            text += &format!("{:26} -> {line}\n", "");
        }
    }
    text += "\nvariables that are set:";
    if variables.is_empty() {
        text += " none\n";
    } else {
        let rows: Vec<Vec<String>> =
            variables.iter().map(|(name, value)| vec![format!("  {name}"), value.clone()]).collect();
        text += &table(&["", ""], &rows, &[]);
    }
    text
}

fn cpu() -> Finding {
    let cpu = selection::cpu();
    let threads = counted(rayon::current_num_threads() as u64, "thread");
    finding("CPU device", State::Ok, format!("{}, {threads}", cpu.name()), "")
}

/// Driver and GPUs.
fn driver(findings: &mut Vec<Finding>) -> Vec<DeviceInfo> {
    match Driver::get() {
        Ok(driver) => {
            let found = format!("for CUDA up to {}", driver.version());
            findings.push(finding("CUDA driver", State::Ok, found, ""));
        }
        Err(error) => {
            let state = match error {
                cce_runtime::Error::NoDriver { .. } => State::Missing,
                _ => State::Broken,
            };
            let advice = match state {
                State::Missing => "without one, everything runs on the CPU device",
                _ => "",
            };
            findings.push(finding("CUDA driver", state, error.to_string(), advice));
            return Vec::new();
        }
    }
    match Devices::list() {
        Ok(devices) if devices.is_empty() => {
            let advice = "look at nvidia-smi and at CUDA_VISIBLE_DEVICES";
            findings.push(finding("GPU", State::Missing, "the driver shows none", advice));
            devices
        }
        Ok(devices) => {
            for gpu in &devices {
                let (major, minor) = gpu.compute_capability;
                let found = format!(
                    "{}, compute capability {major}.{minor}, {} multiprocessors, {} ({} L2), {} shared \
                     memory a block",
                    gpu.name,
                    gpu.multiprocessors,
                    bytes(gpu.memory_bytes),
                    bytes(gpu.l2_bytes),
                    bytes(gpu.shared_per_block.into())
                );
                findings.push(finding(&format!("GPU {}", gpu.index), State::Ok, found, ""));
            }
            devices
        }
        Err(error) => {
            findings.push(finding("GPU", State::Broken, error.to_string(), "look at nvidia-smi"));
            Vec::new()
        }
    }
}

fn nvrtc(devices: &[DeviceInfo]) -> Finding {
    let (driver, arch) = (devices.first().map(|gpu| gpu.driver), devices.first().map(DeviceInfo::arch));
    match Nvrtc::find(driver, arch) {
        Ok(nvrtc) => {
            let found = format!("{} at {}", nvrtc.version(), nvrtc.path().display());
            finding("NVRTC", State::Ok, found, "")
        }
        Err(cce_runtime::Error::NvrtcNotFound { .. }) if devices.is_empty() => finding(
            "NVRTC",
            State::Missing,
            "not found",
            "not needed without a GPU; to print PTX: pip install nvidia-cuda-nvrtc, or set CCE_NVRTC_PATH",
        ),
        Err(error) => {
            let advice = "pip install nvidia-cuda-nvrtc (not newer than the driver), or set CCE_NVRTC_PATH \
                          to libnvrtc.so or its folder";
            finding("NVRTC", State::Broken, error.to_string(), advice)
        }
    }
}

fn cubins() -> Finding {
    let cache = CubinCache::from_env();
    let Some(folder) = cache.folder() else {
        let advice = "set CCE_CACHE_DIR to a folder, else every process compiles its kernels anew";
        return finding("kernel cache", State::Missing, "there is no folder for it", advice);
    };
    if !folder.exists() {
        let found = format!("{}, not there yet", folder.display());
        return finding("kernel cache", State::Missing, found, "it is made when a kernel is compiled");
    }
    match contents(folder) {
        Ok((files, size)) => {
            let found = format!("{}, {}, {}", folder.display(), counted(files, "kernel"), bytes(size));
            finding("kernel cache", State::Ok, found, "")
        }
        Err(error) => {
            let found = format!("{}: {error}", folder.display());
            finding("kernel cache", State::Broken, found, "make it readable, or set CCE_CACHE_DIR")
        }
    }
}

fn contents(folder: &Path) -> std::io::Result<(u64, u64)> {
    let (mut files, mut size) = (0, 0);
    for entry in std::fs::read_dir(folder)? {
        let data = entry?.metadata()?;
        if data.is_file() {
            files += 1;
            size += data.len();
        }
    }
    Ok((files, size))
}

/// Looks at a database that is there; makes none.
fn database(findings: &mut Vec<Finding>) {
    const WHAT: &str = "tuning database";
    let Some(folder) = selection::folder() else {
        let advice = "set CCE_TUNING_DIR to a folder; until then plans use default schedules";
        findings.push(finding(
            WHAT,
            State::Missing,
            "there is no folder for it, or it is switched off",
            advice,
        ));
        return;
    };
    let place = folder.display();
    if !folder.exists() {
        let found = format!("{place}, not there yet");
        findings.push(finding(
            WHAT,
            State::Missing,
            found,
            "run cce-tune; until then plans use default schedules",
        ));
        return;
    }
    let winners = Winners::open(&folder);
    let warnings: Vec<String> = winners.take_warnings().iter().map(ToString::to_string).collect();
    match Database::open(&folder).and_then(|mut database| database.verify()) {
        Ok((indexing, report)) => {
            let mut found = format!(
                "{place}, {}, winners for {}",
                counted(report.records, "trial"),
                counted(winners.all().len() as u64, "problem")
            );
            if let Indexing::Done { repairs } = &indexing {
                for repair in repairs {
                    found += &format!("\nput right now: {repair}");
                }
            } else {
                found += "\nanother process is indexing it";
            }
            for warning in warnings {
                found += &format!("\n{warning}");
            }
            findings.push(finding(WHAT, State::Ok, found, ""));
        }
        Err(error) => {
            let state = if error.is_unwritable_place() { State::Missing } else { State::Broken };
            let found = format!("{place}: {error}");
            let advice = match state {
                State::Missing => "plans can read it, the tuner cannot write it",
                _ => "see the message; what is damaged is set aside, never deleted",
            };
            findings.push(finding(WHAT, state, found, advice));
        }
    }
}

fn profiles(findings: &mut Vec<Finding>) {
    let paths: Vec<PathBuf> = selection::profiles();
    for path in paths {
        let what = "profile";
        findings.push(match Profile::read(&path) {
            Ok((profile, skipped)) if skipped.is_empty() => {
                let problems = counted(profile.entries.len() as u64, "problem");
                let found = format!("{}, {}, {problems}", path.display(), profile.name);
                finding(what, State::Ok, found, "")
            }
            Ok((profile, skipped)) => {
                let found = format!("{}, {}: {}", path.display(), profile.name, skipped.join("; "));
                finding(what, State::Broken, found, "export it again with this version")
            }
            Err(error) => finding(what, State::Broken, error.to_string(), "correct CCE_PROFILE or unset it"),
        });
    }
    findings.extend(selection::SHIPPED.iter().map(|one| shipped(one.file, one.text)));
}

/// A profile of older kernels is no fault: its winners are still used.
fn shipped(file: &str, text: &str) -> Finding {
    const WHAT: &str = "shipped profile";
    let profile = match Profile::parse(text) {
        Ok((profile, _)) => profile,
        Err(error) => return finding(WHAT, State::Broken, format!("{file}: {error}"), "please report this"),
    };
    let stale = |entry: &&cce_tuning_db::KeyWinners| {
        let generation = selection::generation(&entry.key.device);
        entry.winners.iter().all(|winner| winner.generation != generation)
    };
    let stale = profile.entries.iter().filter(stale).count();
    let mut found = format!("{}, {}", profile.name, counted(profile.entries.len() as u64, "problem"));
    if stale > 0 {
        found +=
            &format!(", {stale} of them stale: measured with another version of the kernels, still used");
    }
    finding(WHAT, State::Ok, found, "")
}

#[cfg(test)]
mod tests {
    use super::VARIABLES;

    #[test]
    fn the_variables_are_those_that_the_documentation_lists() {
        let guide = include_str!("../../../docs/tuning.md");
        let section = guide.split("## Environment variables").nth(1).unwrap();
        let rows = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
        let names: Vec<&str> = rows
            .take_while(|row| row.starts_with('|'))
            .flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2))
            .collect();
        assert_eq!(names, VARIABLES);
    }
}
