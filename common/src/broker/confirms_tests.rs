use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn returned(no: PublishNo) -> (PublishNo, Returned) {
    (no, Returned { code: 312, text: format!("NO_ROUTE for {no}") })
}

fn confirm(no: PublishNo, carried: Option<PublishNo>) -> Confirmed {
    Confirmed { no, mandatory: true, ack: true, carried: carried.map(returned) }
}

fn is_returned(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Returned(_))
}

#[test]
fn a_return_handed_to_the_wrong_publish_is_given_back_to_its_own() {
    let mut book = ConfirmBook::default();
    // One `multiple` confirm for 1 and 2; only 2 was unroutable, but 1 was walked first and carries its return.
    book.resolved(confirm(1, Some(2)));
    book.resolved(confirm(2, None));
    let mut decided = book.settle(0);
    decided.sort_by_key(|(no, _)| *no);
    assert_eq!(decided[0], (1, Verdict::Acked));
    assert_eq!(decided[1], (2, Verdict::Returned(returned(2).1)));
}

#[test]
fn a_publish_that_carries_anothers_return_waits_until_its_own_cannot_come_any_more() {
    let mut book = ConfirmBook::default();
    book.resolved(confirm(1, Some(2)));
    assert_eq!(book.settle(1), []);
    book.resolved(confirm(2, Some(1)));
    let decided = book.settle(0);
    assert_eq!(decided.len(), 2);
    assert!(decided.iter().all(|(_, verdict)| is_returned(verdict)));
}

#[test]
fn messages_that_are_not_mandatory_are_decided_at_once() {
    let mut book = ConfirmBook::default();
    book.resolved(Confirmed { mandatory: false, ..confirm(1, Some(2)) });
    book.resolved(Confirmed { mandatory: false, ack: false, ..confirm(3, None) });
    assert_eq!(book.settle(1), [(1, Verdict::Acked), (3, Verdict::Nacked)]);
    book.resolved(confirm(2, None));
    assert_eq!(book.settle(0), [(2, Verdict::Returned(returned(2).1))]);
}

/// The library as its source reads: a queue of returned messages; each confirm takes the oldest, whosever it is; a
/// multiple confirm resolves its publishes in any order.
struct Library {
    waiting: VecDeque<PublishNo>,
}

impl Library {
    fn confirm(&mut self, no: PublishNo, mandatory: bool, ack: bool) -> Confirmed {
        Confirmed { no, mandatory, ack, carried: self.waiting.pop_front().map(returned) }
    }
}

proptest! {
    /// Whatever is returned, in whatever order confirms are walked and however they are grouped into batches, each
    /// publish gets its own outcome, and all are decided when the channel is quiet.
    #[test]
    fn every_publish_gets_its_own_outcome(
        publishes in prop::collection::vec((any::<bool>(), any::<bool>()), 1..40),
        groups in prop::collection::vec(1_usize..6, 1..40),
        order in prop::collection::vec(any::<u32>(), 40),
        batch_ends in prop::collection::vec(any::<bool>(), 40),
    ) {
        let mut library = Library { waiting: VecDeque::new() };
        let mut book = ConfirmBook::default();
        let mut decided = Vec::new();
        let mut next = 0;
        let mut groups = groups.into_iter().cycle();
        while next < publishes.len() {
            // The broker routes a group of publishes, sends their returns, then one multiple confirm.
            let end = publishes.len().min(next + groups.next().unwrap());
            let group: Vec<usize> = (next..end).collect();
            for &at in &group {
                let (mandatory, routable) = publishes[at];
                if mandatory && !routable {
                    library.waiting.push_back(at as PublishNo);
                }
            }
            let mut walked = group.clone();
            walked.sort_by_key(|at| order[*at]);
            for at in walked {
                book.resolved(library.confirm(at as PublishNo, publishes[at].0, true));
                if batch_ends[at] {
                    // At least one is outstanding as long as the loop has not seen the last one.
                    decided.extend(book.settle(1));
                }
            }
            next = end;
        }
        decided.extend(book.settle(0));
        prop_assert_eq!(decided.len(), publishes.len());
        for (no, verdict) in decided {
            let (mandatory, routable) = publishes[usize::try_from(no).unwrap()];
            prop_assert_eq!(is_returned(&verdict), mandatory && !routable, "publish {}", no);
        }
    }
}
