//! The profiles that ship: winners of measured GPUs, compiled in, the lowest layer of selection.
//!
//! One file a device in `cce-runtime/profiles/`, made by `cce-tune profile`, and a line for it below; the tests hold
//! the two together. A profile that an earlier version of the kernels made stays of use: its winners are stale, and
//! each is checked against a call like any other.

/// File name and text of every shipped profile.
pub const SHIPPED: &[(&str, &str)] =
    &[("nvidia-h100-80gb-hbm3.json", include_str!("../../profiles/nvidia-h100-80gb-hbm3.json"))];

#[cfg(test)]
mod tests {
    use super::SHIPPED;
    use cce_tuning_db::{KEY_SCHEMA, Profile};
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
        let listed: Vec<&str> = SHIPPED.iter().map(|(file, _)| *file).collect();
        assert_eq!(
            listed,
            files,
            "expected a line (\"FILE\", include_str!(\"../../profiles/FILE\")) of SHIPPED for every file of {}, in order",
            folder.display()
        );
    }

    #[test]
    fn every_shipped_profile_is_read_whole_and_has_a_name_of_its_own() {
        let mut names = HashSet::new();
        for (file, text) in SHIPPED {
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
            assert_eq!(format!("{}.json", profile.name), *file, "a profile is named as its file");
            assert!(names.insert(profile.name), "{file}: another file has its name");
        }
    }
}
