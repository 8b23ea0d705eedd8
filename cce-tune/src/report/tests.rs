//! The page of a fixed set of trials.

use super::*;
use crate::exchange::problems;
use cce_tuning_db::{
    Config, Device, Gradients, Objective, Problem as Described, ProgramHash, Provenance, Record, Resources,
    Settled, Status,
};
use serde_json::json;

const HOSTILE: &str = "</script><script>alert('x')</script> & \"quoted\" \u{0}";

fn key() -> Key {
    let described =
        Described::new(Shape::new(8192, 2304, 256_000)).with_gradients(Gradients::new(true, true));
    let device = Device::gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 232_448, 50 << 20);
    Key::new(ProgramHash::of(b"loss"), described, device).with_objective(Objective::LossAndGradients)
}

fn config(n: u32, stages: u32, chunk: u32) -> Config {
    Config::new(json!({"gpu": {"family": "wgmma", "logits": {"n": n, "stages": stages}, "chunk": chunk}}))
}

fn provenance(at: u64) -> Provenance {
    Provenance::new(HOSTILE, 1_700_000_000_000 + at)
}

fn trials() -> Vec<Trial> {
    let (shape, generation) = (Shape::new(8192, 2304, 256_000), Generation::new("1", "s"));
    let mut trials = Vec::new();
    let mut at = 0;
    for n in [64, 128, 256] {
        for stages in [2, 4] {
            for chunk in [4096, 8192] {
                at += 1500;
                let ms = 20.0
                    + f64::from(256 - n) / 20.0
                    + if stages == 4 { 0.0 } else { 3.0 }
                    + if (n == 256) == (chunk == 8192) { 0.0 } else { 2.0 };
                let samples = vec![ms, 1.01 * ms, 1.02 * ms];
                let trial = Trial::measured(
                    config(n, stages, chunk),
                    shape,
                    samples,
                    generation.clone(),
                    provenance(at),
                );
                trials.push(
                    trial.unwrap().with_gradient_error(9e-3).with_resources(Resources::new(168, 0, 180_000)),
                );
            }
        }
    }
    let ends = [
        Status::Constraint(HOSTILE.to_owned()),
        Status::Constraint("the ring is larger than the shared memory".to_owned()),
        Status::Resources("kernel spilled 64 bytes".to_owned()),
        Status::Wrong("dE differs".to_owned()),
    ];
    for (number, status) in ends.into_iter().enumerate() {
        at += 700_000;
        let config = config(512, 4 + number as u32, 4096);
        trials.push(Trial::dropped(config, shape, status, generation.clone(), provenance(at)));
    }
    trials
}

fn page(trials: Vec<Trial>) -> Page {
    let records = trials.iter().map(|trial| Record::new(key(), trial.clone())).collect();
    let problem = problems(records, |_| Generation::new("1", "s")).remove(0);
    let mut page = Page::new(
        HOSTILE.to_owned(),
        "8192 x 2304 x 256000 bf16, gradients, exact".to_owned(),
        &problem,
        trials,
        |config| config.text().to_owned(),
    );
    page.default = Some(config(128, 4, 8192).hash());
    page
}

fn parsed(html: &str) -> roxmltree::Document<'_> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    roxmltree::Document::parse_with_options(html, options).unwrap()
}

#[test]
fn the_page_is_well_formed_whatever_the_trials_say() {
    let html = page(trials()).html();
    let document = parsed(&html);
    let scripts: Vec<_> = document.descendants().filter(|node| node.has_tag_name("script")).collect();
    assert_eq!(scripts.len(), 1, "a trial brought a script of its own");
    assert!(scripts[0].text().unwrap().contains("addEventListener"));
    let heading = document.descendants().find(|node| node.has_tag_name("h1")).unwrap();
    assert!(
        heading.text().unwrap().starts_with("</script><script>alert('x')</script> & \"quoted\" \u{fffd}")
    );
    let handlers =
        document.descendants().flat_map(|node| node.attributes()).filter(|a| a.name().starts_with("on"));
    assert_eq!(handlers.count(), 0);
}

#[test]
fn the_page_loads_nothing() {
    let html = page(trials()).html();
    for node in parsed(&html).descendants() {
        for name in ["src", "href", "srcset", "data", "poster", "action"] {
            assert_eq!(node.attribute(name), None, "{node:?}");
        }
    }
    assert!(!html.contains("url(") && !html.contains("@import"));
    assert!(html.contains("default-src &#39;none&#39;"));
}

/// All text of the sections below a heading of this title.
fn section(html: &str, title: &str) -> String {
    let document = parsed(html);
    let mut text = String::new();
    let mut within = false;
    let main = document.descendants().find(|node| node.has_tag_name("main")).unwrap();
    for child in main.children() {
        if child.has_tag_name("h2") {
            within = child.text() == Some(title);
        }
        if within {
            child.descendants().filter_map(|node| node.text().filter(|_| node.is_text())).for_each(|t| {
                text += t;
                text += " ";
            });
        }
    }
    text
}

#[test]
fn every_section_says_what_the_trials_say() {
    let html = page(trials()).html();
    let ranked = section(&html, "Configurations, fastest first");
    assert!(
        ranked.contains("20.200") && ranked.contains("(the default)") && ranked.contains("floor, 27."),
        "{ranked}"
    );
    let knobs = section(&html, "What each knob does");
    for knob in ["logits.n", "logits.stages", "chunk"] {
        assert!(knobs.contains(knob), "{knobs}");
    }
    assert!(!knobs.contains("family"), "a knob that never moves");
    let pairs = section(&html, "Which knobs depend on each other");
    assert!(pairs.contains("logits.n by chunk"), "{pairs}");
    let dropped = section(&html, "Why candidates were dropped");
    assert!(dropped.contains("constraint") && dropped.contains("kernel spilled 64 bytes"), "{dropped}");
    let search = section(&html, "How the search went");
    assert!(search.contains("Pauses are left out of the clock: 4."), "{search}");
    let document = parsed(&html);
    let charts = document.descendants().filter(|node| node.has_tag_name("svg"));
    for chart in charts {
        assert!(chart.children().any(|child| child.has_tag_name("title")), "a chart without a title");
        assert!(chart.attribute("aria-label").is_some_and(|label| !label.is_empty()));
    }
}

/// Trials whose winner, by a tie and a lucky screening, is not the fastest.
fn won_by_a_slower_one() -> Vec<Trial> {
    let mut all = trials();
    let lucky = all.iter_mut().find(|trial| trial.config == config(256, 4, 8192)).unwrap();
    assert_eq!(lucky.time(), Some(1.01 * 20.0));
    lucky.settled = Some(Settled::paired(19.0));
    let tied = [(config(128, 4, 8192), 1), (config(64, 4, 4096), 0)];
    for (config, place) in &tied {
        let finalist = all.iter_mut().find(|trial| trial.config == *config).unwrap();
        finalist.settled = Some(Settled::placed(25.5 - 0.1 * f64::from(*place), *place).tying(25.5));
    }
    all
}

#[test]
fn the_winner_of_the_page_is_that_of_the_run_off_and_not_a_lucky_screening() {
    let html = page(won_by_a_slower_one()).html();
    let document = parsed(&html);
    let winner = document.descendants().find(|node| node.text() == Some("The winner")).unwrap();
    assert_eq!(winner.next_sibling().unwrap().text(), Some(config(64, 4, 4096).text()));
    assert!(section(&html, "Configurations, fastest first").contains("from 22.275 ms to"));
}

/// Left, top, right and bottom of the plane of a chart, in pixels, from what is drawn of it.
fn plane(chart: roxmltree::Node<'_, '_>) -> (f64, f64, f64, f64) {
    let number = |node: roxmltree::Node<'_, '_>, name| node.attribute(name).unwrap().parse::<f64>().unwrap();
    let of_class =
        |class: &'static str| chart.descendants().filter(move |node| node.attribute("class") == Some(class));
    let view: Vec<f64> =
        chart.attribute("viewBox").unwrap().split(' ').map(|part| part.parse().unwrap()).collect();
    let grid = of_class("grid").next().expect("a chart without a grid");
    match of_class("label end").next() {
        // Rows: their labels end 8 pixels before the plane, and the grid goes from top to bottom.
        Some(label) => (number(label, "x") + 8.0, number(grid, "y1"), view[2] - 12.0, number(grid, "y2")),
        // The grid goes from left to right; the numbers below are 18 pixels under the plane.
        None => {
            let below = of_class("tick middle").next().expect("a chart without numbers below");
            (number(grid, "x1"), 16.0, number(grid, "x2"), number(below, "y") - 18.0)
        }
    }
}

/// How many marks the charts of a page have, each of which is within its chart's plane.
fn marks_within_their_planes(html: &str) -> Result<usize, String> {
    let mut marks = 0;
    for chart in parsed(html).descendants().filter(|node| node.has_tag_name("svg")) {
        let (left, top, right, bottom) = plane(chart);
        let within = |node: roxmltree::Node<'_, '_>, x: &str, y: &str| {
            let number = |name| node.attribute(name).unwrap().parse::<f64>().unwrap();
            (left..=right).contains(&number(x)) && (top..=bottom).contains(&number(y))
        };
        for node in chart.descendants() {
            let is_within = match (node.tag_name().name(), node.attribute("class")) {
                ("circle", _) => within(node, "cx", "cy"),
                ("line", _) => within(node, "x1", "y1") && within(node, "x2", "y2"),
                _ => continue,
            };
            if !is_within {
                let title = chart.attribute("aria-label").unwrap();
                let mark = &html[node.range()];
                return Err(format!("{title}: {mark} is not within {left} {top} {right} {bottom}"));
            }
            marks += 1;
        }
    }
    Ok(marks)
}

#[test]
fn every_mark_of_the_test_pages_is_within_its_plane() {
    for trials in [trials(), won_by_a_slower_one()] {
        assert!(marks_within_their_planes(&page(trials).html()).unwrap() > 60);
    }
    let failures = trials().into_iter().filter(|trial| trial.time().is_none()).collect();
    assert_eq!(marks_within_their_planes(&page(failures).html()), Ok(0));
    assert!(marks_within_their_planes(&page(trials()[..1].to_vec()).html()).unwrap() > 3);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Whatever the trials took, and whichever won: the winner need not be the fastest.
    #[test]
    fn every_mark_is_within_its_plane_whatever_the_times_are(
        factors in proptest::collection::vec(0.02f64..50.0, 12),
        spread in 0.0f64..1.0,
        winner in 0usize..12,
        waits in proptest::collection::vec(0u64..200_000, 12),
    ) {
        let mut now = 1_700_000_000_000;
        let mut all = trials();
        all.truncate(12);
        for (at, (trial, factor)) in all.iter_mut().zip(&factors).enumerate() {
            now += waits[at];
            let ms = 25.0 * factor.powf(spread);
            let samples = vec![ms, 1.01 * ms];
            let at_now = Provenance::new("here", now);
            let (config, generation) = (trial.config.clone(), trial.generation.clone());
            *trial = Trial::measured(config, trial.shape, samples, generation, at_now).unwrap();
            trial.settled = (at == winner).then_some(Settled::placed(ms, 0));
        }
        let marks = marks_within_their_planes(&page(all).html());
        proptest::prop_assert!(marks.as_ref().is_ok_and(|marks| *marks > 60), "{marks:?}");
    }
}

#[test]
fn a_page_of_failures_alone_or_of_one_trial_is_a_page() {
    let all = trials();
    let failures: Vec<Trial> = all.iter().filter(|trial| trial.time().is_none()).cloned().collect();
    let html = page(failures).html();
    parsed(&html);
    assert!(html.contains("no candidate could run and was right"));
    let one = page(all[..1].to_vec()).html();
    parsed(&one);
    assert!(one.contains("None was dropped."));
}

#[test]
fn an_index_leads_to_files_beside_it_only() {
    let entry = Entry {
        loss: HOSTILE.to_owned(),
        problem: HOSTILE.to_owned(),
        device: "d".to_owned(),
        best: None,
        configurations: 3,
        file: "javascript:alert(1)//../x.html".to_owned(),
    };
    let html = index(&[entry]);
    let document = parsed(&html);
    let link = document.descendants().find(|node| node.has_tag_name("a")).unwrap();
    assert_eq!(link.attribute("href"), Some("./javascriptalert1..x.html"));
}
