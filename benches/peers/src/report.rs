//! The rows, as JSON lines during the run and as a table at its end.

use crate::measure::{Measured, Side, interleave};

#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

struct Row {
    case: &'static str,
    peer: &'static str,
    ours_nanos: f64,
    peer_nanos: f64,
    ratio: f64,
    ours_allocations: f64,
    peer_allocations: f64,
}

impl Report {
    /// Measures one case with all its sides in turns, and prints a row for each peer.
    pub fn case(
        &mut self,
        case: &'static str,
        ours: Box<dyn Side>,
        peers: Vec<(&'static str, Box<dyn Side>)>,
    ) {
        let (names, theirs): (Vec<_>, Vec<_>) = peers.into_iter().unzip();
        let mut sides = vec![ours];
        sides.extend(theirs);
        let measured = interleave(&mut sides);
        let (ours, peers) = measured.split_first().expect("our side is always there");
        for (peer, theirs) in names.into_iter().zip(peers) {
            let row = Row {
                case,
                peer,
                ours_nanos: ours.nanos,
                peer_nanos: theirs.nanos,
                ratio: ours.ratio_to(theirs),
                ours_allocations: ours.allocations,
                peer_allocations: theirs.allocations,
            };
            row.print_json();
            self.rows.push(row);
        }
    }

    pub fn table(&self) {
        println!();
        println!(
            "{:<30} {:<17} {:>9} {:>10} {:>7} {:>7} {:>7}",
            "case", "peer", "ours ns", "peer ns", "ratio", "ours #", "peer #"
        );
        for row in &self.rows {
            println!(
                "{:<30} {:<17} {:>9.1} {:>10.1} {:>7.3} {:>7.2} {:>7.2}",
                row.case,
                row.peer,
                row.ours_nanos,
                row.peer_nanos,
                row.ratio,
                row.ours_allocations,
                row.peer_allocations
            );
        }
    }
}

impl Row {
    fn print_json(&self) {
        let Self { case, peer, ours_nanos, peer_nanos, ratio, ours_allocations, peer_allocations } =
            self;
        println!(
            "row {{\"case\":\"{case}\",\"ours_ns\":{ours_nanos:.1},\"peer\":\"{peer}\",\
             \"peer_ns\":{peer_nanos:.1},\"ratio\":{ratio:.3},\
             \"ours_allocs\":{ours_allocations:.3},\"peer_allocs\":{peer_allocations:.3}}}"
        );
    }
}

/// Prints the cost of 100 times as many calls in buttress's window.
pub fn growth(crowded_and_busy: &[Measured]) {
    let [crowded, busy] = crowded_and_busy else { unreachable!("two sides were measured") };
    println!(
        r#"growth {{"case":"breaker_time_window","ns_1k":{:.1},"ns_100k":{:.1},"ratio":{:.3}}}"#,
        busy.nanos,
        crowded.nanos,
        crowded.ratio_to(busy)
    );
}
