//! Scale curves as a page of Markdown and plots.

use std::fmt::Write as _;

use super::curves::{COST_RATIO_MAX, Curve, Measured};
use super::rounds::Pace;
use super::svg::{Bar, lines};
use super::table::{line, number};

/// The whole page.
#[must_use]
pub fn page(drawn: &[(Curve, Vec<Measured>)], pace: Pace, facts: &[(&'static str, String)]) -> String {
    let mut page = String::from(
        "# What happens when something grows\n\nWritten by `make bench-curves`; do not edit.\n\n",
    );
    let _ = writeln!(
        page,
        "Switchyard alone, publishing at the same time; medians of {} rounds of about {} s, the points of a curve interleaved. What is \
         in the table already are copies of a task that Switchyard has made; those that wait are of the same class as what is measured, \
         and are served after it. *Cost* is CPU of everything, clients and broker included, against the first point; at most \
         {COST_RATIO_MAX} is asked for at the last. Not so for payloads, whose bytes have to be carried. Dispatcher: 1 unless said; \
         agents: 2 of 16 slots and credit 240 unless said.\n",
        pace.rounds, pace.seconds
    );
    for (curve, measured) in drawn {
        section(&mut page, curve, measured);
    }
    page.push_str("## Machine and versions\n\n| what | which |\n| --- | --- |\n");
    facts.iter().for_each(|(what, which)| line(&mut page, &[what, which]));
    page
}

fn section(page: &mut String, curve: &Curve, measured: &[Measured]) {
    let Curve { id, title, points } = curve;
    let _ = writeln!(page, "## By {title}\n\n![{title}](curve-{id}.svg)\n");
    page.push_str("| point | tasks/s | of the first | CPU s per 1,000 | cost | pass ms | dispatcher MB | idle agent MB |\n");
    page.push_str("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
    let Some(first) = measured.first() else { return };
    for (point, one) in points.iter().zip(measured) {
        let cells = [
            point.name.to_owned(),
            number(Some(one.per_second), 0),
            number(Some(one.per_second / first.per_second), 2),
            number(Some(one.cpu_per_1000), 2),
            number(Some(one.cpu_per_1000 / first.cpu_per_1000), 2),
            number(one.pass_ms, 1),
            number(Some(one.dispatcher_mb), 0),
            number(Some(one.idle_agent_mb), 0),
        ];
        line(page, &cells.iter().map(String::as_str).collect::<Vec<_>>());
    }
    page.push('\n');
}

/// Throughput and cost against the first point.
#[must_use]
pub fn plot(curve: &Curve, measured: &[Measured]) -> String {
    let Some(first) = measured.first() else { return String::new() };
    let dot = |(point, one): (&super::curves::Point, &Measured)| Bar {
        name: point.name.to_owned(),
        values: vec![Some(one.per_second / first.per_second), Some(one.cpu_per_1000 / first.cpu_per_1000)],
    };
    let dots: Vec<Bar> = curve.points.iter().zip(measured).map(dot).collect();
    lines(&format!("by {}: against the first point", curve.title), &["throughput", "cost of a task"], &dots)
}
