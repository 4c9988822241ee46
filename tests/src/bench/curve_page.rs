//! A scale curve as a page of Markdown and a plot.

use std::fmt::Write as _;

use super::curves::{COST_RATIO_MAX, Curve, Drawn};
use super::rounds::Pace;
use super::svg::{Bar, lines};
use super::table::{line, number};

/// The page of one curve.
#[must_use]
pub fn page(curve: &Curve, drawn: &[Drawn], pace: Pace, facts: &[(&'static str, String)]) -> String {
    let Curve { id, title, points } = curve;
    let mut page = format!("# By {title}\n\nWritten by `make bench-curves`; do not edit.\n\n");
    let _ = writeln!(
        page,
        "Switchyard alone, publishing at the same time; medians of {} rounds of about {} s, the points interleaved; ratios are taken within a \
         round. What is in the table already are copies of a task that Switchyard has made, in a database that is copied for each round; those that \
         wait are for a handler that no agent has, so that they stay. *Cost* is CPU of everything, clients and broker included, against the first point; at most \
         {COST_RATIO_MAX} is asked for at the last. Not so for payloads, whose bytes have to be carried. Dispatcher: 1 unless said; \
         agents: 2 of 16 slots and credit 240 unless said.\n",
        pace.rounds, pace.seconds
    );
    let _ = writeln!(page, "![{title}](curve-{id}.svg)\n");
    page.push_str("| point | tasks/s | of the first | CPU s per 1,000 | cost | pass ms | dispatcher MB | idle agent MB |\n");
    page.push_str("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
    for (point, one) in points.iter().zip(drawn) {
        let cells = [
            point.name.to_owned(),
            number(Some(one.medians.per_second), 0),
            number(Some(one.throughput_ratio), 2),
            number(Some(one.medians.cpu_per_1000), 2),
            number(Some(one.cost_ratio), 2),
            number(one.medians.pass_ms, 1),
            number(Some(one.medians.dispatcher_mb), 0),
            number(Some(one.medians.idle_agent_mb), 0),
        ];
        line(&mut page, &cells.iter().map(String::as_str).collect::<Vec<_>>());
    }
    page.push_str("\n## Machine and versions\n\n| what | which |\n| --- | --- |\n");
    facts.iter().for_each(|(what, which)| line(&mut page, &[what, which]));
    page
}

/// Throughput and cost against the first point.
#[must_use]
pub fn plot(curve: &Curve, drawn: &[Drawn]) -> String {
    let dot = |(point, one): (&super::curves::Point, &Drawn)| Bar {
        name: point.name.to_owned(),
        values: vec![Some(one.throughput_ratio), Some(one.cost_ratio)],
    };
    let dots: Vec<Bar> = curve.points.iter().zip(drawn).map(dot).collect();
    lines(&format!("by {}: against the first point", curve.title), &["throughput", "cost of a task"], &dots)
}
