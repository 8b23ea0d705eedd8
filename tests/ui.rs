//! What the user reads when a loss is wrong.
//!
//! Each file in `tests/ui/fail` has one mistake, named by the file; its `.stderr` is under review.
//! After a change of messages: `TRYBUILD=overwrite cargo test --test ui`, and read the difference
//! as a user would.

#[test]
fn each_mistake_has_its_message() {
    trybuild::TestCases::new().compile_fail("tests/ui/fail/*.rs");
}

#[test]
fn no_message_shows_how_the_crates_are_built_inside() {
    let mut cases = 0;
    for entry in std::fs::read_dir("tests/ui/fail").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "stderr") {
            continue;
        }
        cases += 1;
        let message = std::fs::read_to_string(&path).unwrap();
        for internal in
            ["__private", "cce_codegen", "cce_macros", "ExprId", "ProgramBuilder", "Diagnostic", "poison"]
        {
            assert!(!message.contains(internal), "{} shows `{internal}`:\n{message}", path.display());
        }
        assert!(message.starts_with("error"), "{} does not begin with an error", path.display());
    }
    assert!(cases >= 25, "{cases} cases");
}
