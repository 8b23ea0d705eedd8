//! The script that runs a bundle.

/// `.bundle/run`.
pub const RUN: &str = include_str!("run.sh");

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::process::{Command, Output};

    /// A bundle whose programs print how they were called.
    fn bundle() -> tempfile::TempDir {
        let scratch = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = scratch.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        write("run", RUN);
        let echo = "#!/bin/sh\necho \"$(basename \"$0\") got: $* nvrtc=$CCE_NVRTC_PATH\"\n";
        for name in ["cce-tune", "tests/gpu_one", "tests/gpu_two", "benches/head"] {
            write(name, echo);
        }
        write("tests/gpu_bad", "#!/bin/sh\nexit 3\n");
        scratch
    }

    fn run(folder: &Path, arguments: &[&str]) -> Output {
        Command::new(folder.join("run")).args(arguments).env("CCE_NVRTC_PATH", "/given").output().unwrap()
    }

    fn text(output: &Output) -> String {
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[test]
    fn programs_are_run_by_name_with_their_arguments() {
        let bundle = bundle();
        let tune = run(bundle.path(), &["cce-tune", "--gpu", "auto"]);
        assert_eq!(text(&tune), "cce-tune got: --gpu auto nvrtc=/given\n");
        let bench = run(bundle.path(), &["head", "a b"]);
        assert_eq!(text(&bench), "head got: a b nvrtc=/given\n");
    }

    #[test]
    fn tests_run_with_those_that_need_a_gpu() {
        let bundle = bundle();
        let one = run(bundle.path(), &["gpu_one", "bf16"]);
        assert_eq!(text(&one), "gpu_one got: --include-ignored bf16 nvrtc=/given\n");
    }

    #[test]
    fn all_tests_run_and_one_that_fails_fails_the_run() {
        let bundle = bundle();
        let all = run(bundle.path(), &["tests"]);
        assert!(!all.status.success());
        assert!(text(&all).contains("gpu_one got") && text(&all).contains("gpu_two got"), "{all:?}");
        assert!(String::from_utf8_lossy(&all.stderr).contains("failed: gpu_bad"), "{all:?}");
        fs::remove_file(bundle.path().join("tests/gpu_bad")).unwrap();
        assert!(run(bundle.path(), &["tests"]).status.success());
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_names_there_are() {
        let bundle = bundle();
        let output = run(bundle.path(), &["nothing"]);
        assert!(!output.status.success());
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains("nothing") && message.contains("gpu_one"), "{message}");
    }

    #[test]
    fn a_tool_can_be_put_in_front() {
        let bundle = bundle();
        let output = Command::new(bundle.path().join("run"))
            .args(["head"])
            .env("CCE_NVRTC_PATH", "/given")
            .env("CCE_RUN_UNDER", "echo under")
            .output()
            .unwrap();
        assert!(text(&output).starts_with("under ") && text(&output).contains("benches/head"), "{output:?}");
    }
}
