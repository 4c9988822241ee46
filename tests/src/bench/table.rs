//! Results as a page of Markdown.

use std::fmt::Write as _;

use super::contender::Contender;
use super::rounds::{Duty, PAYLOAD_BYTES, Pace, Results, WORKSPACES, figure, ratio};
use super::running::Measured;
use super::stats::Latency;
use super::targets::{self, Reached, per_second};

/// The contender that every ratio is taken against.
const REFERENCE: &str = "chain";

/// The whole page.
#[must_use]
pub fn page(
    contenders: &[&dyn Contender],
    results: &Results,
    pace: Pace,
    facts: &[(&'static str, String)],
) -> String {
    let mut page = String::from("# What was measured\n\nWritten by `make bench`; do not edit.\n\n");
    introduction(&mut page, pace);
    throughput(&mut page, contenders, results);
    latency(&mut page, contenders, results);
    cost(&mut page, contenders, results);
    asked_for(&mut page, results);
    guarantees(&mut page, contenders);
    page.push_str("## Machine and versions\n\n| what | which |\n| --- | --- |\n");
    facts.iter().for_each(|(what, which)| line(&mut page, &[what, which]));
    page
}

fn introduction(page: &mut String, pace: Pace) {
    let Pace { rounds, seconds, .. } = pace;
    let _ = writeln!(
        page,
        "Everything on one machine, client, workers, broker and database together: {rounds} interleaved rounds, about {seconds} s for each \
         measurement, medians over rounds, ratios taken within a round. Handlers do nothing; {WORKSPACES} workspaces; messages of about \
         {PAYLOAD_BYTES} bytes. *Drain*: from the first publish to the last end, publishing at the same time. *Preload*: from the first \
         handler start to the last end of a backlog. *Latency*: from publish to handler start.\n"
    );
}

fn throughput(page: &mut String, contenders: &[&dyn Contender], results: &Results) {
    page.push_str("## Throughput\n\n![throughput](throughput.svg)\n\n");
    page.push_str("| contender | drain /s | against the chain | preload /s | against the chain |\n");
    page.push_str("| --- | ---: | ---: | ---: | ---: |\n");
    for contender in contenders {
        let about = contender.about();
        let both = |duty| {
            [
                number(figure(results, about.id, duty, per_second), 0),
                number(ratio(results, duty, (about.id, REFERENCE), per_second), 2),
            ]
        };
        let ([drain, of_drain], [preload, of_preload]) = (both(Duty::Drain), both(Duty::Preload));
        line(page, &[about.title, &drain, &of_drain, &preload, &of_preload]);
    }
    page.push('\n');
}

fn latency(page: &mut String, contenders: &[&dyn Contender], results: &Results) {
    page.push_str("## Latency, in milliseconds\n\n![latency](latency.svg)\n\n");
    page.push_str("| contender | 50/s: p50 | p99 | p99.9 | half of the peak: p50 | p99 | p99.9 |\n");
    page.push_str("| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n");
    for contender in contenders {
        let about = contender.about();
        let mut cells = vec![about.title.to_owned()];
        for duty in [Duty::Steady, Duty::HalfPeak] {
            for of in [|l: Latency| l.p50_ms, |l: Latency| l.p99_ms, |l: Latency| l.p999_ms] {
                cells.push(number(figure(results, about.id, duty, |m| m.latency.map(of)), 1));
            }
        }
        line(page, &cells.iter().map(String::as_str).collect::<Vec<_>>());
    }
    page.push('\n');
}

fn cost(page: &mut String, contenders: &[&dyn Contender], results: &Results) {
    page.push_str("## CPU seconds per 1,000 tasks, and peak memory, while draining\n\n");
    page.push_str("Clients: the publisher, and the chain's sink. Memory: each process by itself, shared pages counted for each.\n\n");
    page.push_str(
        "| contender | front | workers | clients | broker | database | database's share | front MB | workers MB |\n",
    );
    page.push_str("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
    for contender in contenders {
        let about = contender.about();
        let of = |of: fn(&Measured) -> f64, digits| {
            number(figure(results, about.id, Duty::Drain, |measured| Some(of(measured))), digits)
        };
        let cells = [
            about.title.to_owned(),
            of(|m| m.cpu.front, 3),
            of(|m| m.cpu.workers, 3),
            of(|m| m.cpu.clients, 3),
            of(|m| m.cpu.broker, 3),
            of(|m| m.cpu.database, 3),
            of(|m| m.cpu.database / m.cpu.total(), 2),
            of(|m| m.peak_mb[0], 0),
            of(|m| m.peak_mb[1], 0),
        ];
        line(page, &cells.iter().map(String::as_str).collect::<Vec<_>>());
    }
    page.push('\n');
}

fn asked_for(page: &mut String, results: &Results) {
    page.push_str("## Against what is asked for\n\n");
    page.push_str("| figure | measured | at least | aim | reached |\n| --- | ---: | ---: | ---: | --- |\n");
    for target in targets::all() {
        let value = target.value(results);
        let reached = match value.map(|value| target.reached(value)) {
            Some(Reached::Aim) => "the aim",
            Some(Reached::Least) => "yes",
            Some(Reached::No) => "**no**",
            None => "not measured",
        };
        let (least, aim) = (number(Some(target.least), 2), number(Some(target.aim), 2));
        line(page, &[target.name, &number(value, 2), &least, &aim, reached]);
    }
    page.push('\n');
}

fn guarantees(page: &mut String, contenders: &[&dyn Contender]) {
    page.push_str(
        "## What each figure rests on\n\n| contender | guarantees | settings |\n| --- | --- | --- |\n",
    );
    for contender in contenders {
        let about = contender.about();
        line(page, &[about.title, about.guarantees, about.settings]);
    }
    page.push('\n');
}

/// One row.
pub(super) fn line(page: &mut String, cells: &[&str]) {
    let _ = writeln!(page, "| {} |", cells.join(" | "));
}

/// With so many digits behind the point, and a comma per thousand; a dash for what was not measured.
pub(super) fn number(value: Option<f64>, digits: usize) -> String {
    let Some(value) = value else { return "-".to_owned() };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_missing_ones_are_dashes() {
        assert_eq!(number(Some(1_234_567.0), 0), "1,234,567");
        assert_eq!(number(Some(999.456), 2), "999.46");
        assert_eq!(number(Some(-100.0), 0), "-100");
        assert_eq!(number(None, 2), "-");
    }
}
