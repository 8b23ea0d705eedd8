//! A report in a real browser, headless: it is drawn in light, dark and narrow, its tables sort, nothing is wider than
//! the window. Needs Chromium, so only with `CCE_SLOW_TESTS=1`, and then it has to be there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use common::Tuner;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs when the page has loaded: sorts by time, the slowest first, and says what came out.
const PROBE: &str = r#"<script>
var heads = Array.from(document.querySelectorAll("table.sortable th"));
var time = heads.find(function (head) { return head.textContent === "ms"; });
time.querySelector("button").click();
time.querySelector("button").click();
var times = Array.from(time.closest("table").tBodies[0].rows).map(function (row) {
  return Number(row.cells[time.cellIndex].getAttribute("data-v"));
});
var sorted = times.every(function (ms, at) { return at === 0 || times[at - 1] >= ms; });
document.title = "probe " + times.length + " " + sorted + " " + time.getAttribute("aria-sort") + " " +
  (document.documentElement.scrollWidth - document.documentElement.clientWidth);
</script></body>"#;

fn browser() -> PathBuf {
    let named = std::env::var_os("CCE_TEST_CHROMIUM").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_the_path = || {
        std::env::split_paths(&path)
            .flat_map(|folder| {
                ["chromium", "chromium-browser", "google-chrome"].map(|name| folder.join(name))
            })
            .find(|program| program.is_file())
    };
    named.or_else(on_the_path).unwrap_or_else(|| {
        panic!(
            "CCE_SLOW_TESTS is 1 and there is no chromium, chromium-browser or google-chrome on the path: install one \
             (Debian: apt-get install chromium), or set CCE_TEST_CHROMIUM to it"
        )
    })
}

fn run(tuner: &Tuner, page: &str, width: u32, more: &[&str]) -> Output {
    let profile = format!("--user-data-dir={}", tuner.path("browser"));
    let size = format!("--window-size={width},2400");
    let fixed = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", &profile, &size];
    let output =
        Command::new(browser()).args(fixed).args(more).arg(format!("file://{page}")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn a_report_is_drawn_sorts_and_fits() {
    if std::env::var("CCE_SLOW_TESTS").is_ok_and(|value| value == "1") {
        drawn_sorted_and_fitting();
    } else {
        println!("left out: it needs Chromium, and runs with CCE_SLOW_TESTS=1 (cargo xtask test --slow)");
    }
}

fn drawn_sorted_and_fitting() {
    let tuner = Tuner::new();
    let page = tuner.path("page.html");
    tuner.tiny(&["--report", &page]).ok();
    let mut pictures = Vec::new();
    // preferredColorScheme of blink: 0 is dark, 1 is light.
    for (name, width, scheme) in [("light", 1180, 1), ("dark", 1180, 0), ("narrow", 500, 1)] {
        let picture = tuner.path(&format!("{name}.png"));
        let scheme = format!("--blink-settings=preferredColorScheme={scheme}");
        run(&tuner, &page, width, &[&scheme, &format!("--screenshot={picture}")]);
        let bytes = std::fs::read(&picture).unwrap();
        assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 20_000, "{name}: {} bytes", bytes.len());
        pictures.push(bytes);
    }
    assert_ne!(pictures[0], pictures[1], "dark is drawn like light");
    // Where a person, or a run of the tests, wants to look at them.
    if let Some(folder) = std::env::var_os("CCE_TEST_SCREENSHOTS") {
        for (name, bytes) in ["light", "dark", "narrow"].iter().zip(&pictures) {
            std::fs::write(Path::new(&folder).join(format!("report-{name}.png")), bytes).unwrap();
        }
    }

    let probed = tuner.path("probed.html");
    let html = std::fs::read_to_string(&page).unwrap();
    std::fs::write(&probed, html.replace("</body>", PROBE)).unwrap();
    for width in [1180, 500] {
        let output = run(&tuner, &probed, width, &["--dump-dom"]);
        let dom = String::from_utf8_lossy(&output.stdout).into_owned();
        let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap_or("");
        let said: Vec<&str> = title.split(' ').collect();
        let ["probe", rows, sorted, order, wider] = said[..] else { panic!("the page said {title:?}") };
        assert!(rows.parse::<usize>().unwrap() >= 4, "{title}");
        assert_eq!((sorted, order, wider), ("true", "descending", "0"), "{title} at {width} pixels");
    }
}
