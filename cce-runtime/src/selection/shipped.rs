//! The profiles that ship: winners of measured GPUs, compiled in, the lowest layer of selection.
//!
//! One file a device in `cce-runtime/profiles/`, made by `cce-tune profile`, and a line for it below; the tests hold
//! the two together. A profile that an earlier version of the kernels made stays of use: its winners are stale, and
//! each is checked against a call like any other.

use cce_tuning_db as db;

/// A profile that ships.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    /// Its file's name.
    pub file: &'static str,
    /// The device that it was made on, by its name.
    pub device: &'static str,
    /// The profile.
    pub text: &'static str,
}

/// Every shipped profile, in the order of the files' names.
pub const SHIPPED: &[Shipped] = &[
    Shipped {
        file: "nvidia-h100-80gb-hbm3.json",
        device: "NVIDIA H100 80GB HBM3",
        text: include_str!("../../profiles/nvidia-h100-80gb-hbm3.json"),
    },
    Shipped {
        file: "nvidia-h200.json",
        device: "NVIDIA H200",
        text: include_str!("../../profiles/nvidia-h200.json"),
    },
];

/// Those that are asked for a device: its own; all, for a GPU that has none. A process that is new waits until they are
/// parsed, a millisecond or two each.
pub(super) fn asked_for(device: &db::Device) -> Vec<&'static Shipped> {
    let own: Vec<_> = SHIPPED.iter().filter(|shipped| shipped.device == device.name()).collect();
    match device {
        db::Device::Gpu(_) if own.is_empty() => SHIPPED.iter().collect(),
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::{SHIPPED, Shipped, asked_for};
    use cce_tuning_db::{Device, KEY_SCHEMA, Profile};
    use std::collections::HashSet;

    #[test]
    fn every_file_of_the_folder_is_compiled_in() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
        let mut files: Vec<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "README.md")
            .collect();
        files.sort();
        let listed: Vec<&str> = SHIPPED.iter().map(|shipped| shipped.file).collect();
        assert_eq!(
            listed,
            files,
            "expected an entry of SHIPPED for every file of {}, in order",
            folder.display()
        );
    }

    #[test]
    fn every_shipped_profile_is_read_whole_and_has_a_name_of_its_own() {
        let mut names = HashSet::new();
        for Shipped { file, device, text } in SHIPPED {
            let (profile, skipped) = Profile::parse(text).unwrap_or_else(|error| panic!("{file}: {error}"));
            // Keys of an older layout are of no use to this version, and no fault; all others are read.
            let stored: serde_json::Value = serde_json::from_str(text).unwrap();
            let of_this_layout = |entry: &&serde_json::Value| entry["key"]["schema"] == KEY_SCHEMA;
            let readable = stored["entries"].as_array().unwrap().iter().filter(of_this_layout).count();
            assert_eq!(profile.entries.len(), readable, "{file}: {skipped:?}");
            assert!(
                profile.entries.iter().all(|entry| !entry.winners.is_empty()),
                "{file}: an entry without winners"
            );
            assert!(
                profile.entries.iter().all(|entry| entry.key.device.name() == *device),
                "{file}: not of {device}"
            );
            assert_eq!(format!("{}.json", profile.name), *file, "a profile is named as its file");
            assert!(names.insert(profile.name), "{file}: another file has its name");
        }
    }

    #[test]
    fn no_shipped_winner_was_compared_with_too_few() {
        for Shipped { file, text, .. } in SHIPPED {
            let (profile, _) = Profile::parse(text).unwrap();
            let winners = profile
                .entries
                .iter()
                .flat_map(|entry| entry.winners.first().map(|first| (&entry.key, first)));
            for (key, winner) in winners {
                let settled = winner.settled.filter(|settled| settled.place == Some(0) && !settled.cut_short);
                assert!(
                    settled.is_some(),
                    "{file}: the time cut short the run-off of {key:?}; run cce-tune profile again"
                );
            }
        }
    }

    #[test]
    fn a_device_is_asked_for_its_own_profile_and_one_without_for_all() {
        let files =
            |device: &Device| -> Vec<&str> { asked_for(device).iter().map(|shipped| shipped.file).collect() };
        let gpu = |name: &str| Device::gpu(name, (9, 0), 132, 232_448, 50 << 20);
        assert_eq!(files(&gpu("NVIDIA H200")), ["nvidia-h200.json"]);
        assert_eq!(files(&gpu("another")).len(), SHIPPED.len());
        assert_eq!(files(&Device::cpu("a processor", 8)), Vec::<&str>::new());
    }
}
