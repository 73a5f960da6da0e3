//! The judge of histories has to be able to fail: each of its seventeen rules is broken once, by a history that differs
//! from a clean one in a single fact, and it must name that rule.

mod support;

use support::history::{Event, Place, Probe, Read, Scan, Seen, Sent, What};
use support::judge::Judge;

const A: Place = ("a", 0);
const SECOND: u64 = 1_000_000_000;
const NOTHING: [u8; 0] = [];

fn seen(base: i64, id: u64) -> Seen {
    Seen { base, next: base + 2, id, control: false, timestamp_ms: 1000 + base, aborted: false }
}

fn sent(id: u64, order: u64, transaction: Option<u64>) -> What {
    let place = A;
    let idempotent = transaction.is_none();
    let producer = if idempotent { 1 } else { 2 };
    What::Sent(Sent { id, place, producer, order, count: 2, acks: -1, idempotent, transaction })
}

fn read(committed: bool, batches: Vec<Seen>) -> Read {
    Read {
        reader: u32::from(committed),
        place: A,
        committed,
        // Filled in when the history is put together: asked right before it was answered.
        asked_ns: 0,
        from: 0,
        high_watermark: 9,
        last_stable: 9,
        log_start: 0,
        batches,
    }
}

/// Two batches of an idempotent producer, one of a committed transaction and its marker, one of an aborted one and
/// its marker: offsets 0, 2, 4, 6, 7, 9.
fn log() -> Vec<Seen> {
    let marker = |base, id| Seen { next: base + 1, control: true, ..seen(base, id) };
    let aborted = Seen { aborted: true, ..seen(7, 4) };
    vec![seen(0, 1), seen(2, 2), seen(4, 3), marker(6, 90), aborted, marker(9, 91)]
}

fn scan() -> Scan {
    let lookups = vec![(1001, 2), (1002, 2), (2000, -1)];
    Scan { place: A, healed_ns: 0, start: 0, end: 10, batches: log(), lookups }
}

fn committing(commit: u64, offset: i64) -> What {
    What::Committing { group: "g".to_owned(), place: A, offset, commit, transaction: None }
}

fn offset(offset: i64) -> What {
    What::Offset { group: "g".to_owned(), place: A, offset, asked_ns: 0 }
}

fn assigned(member: &str, generation: i32) -> What {
    What::Assigned { group: "g".to_owned(), generation, member: member.to_owned(), places: vec![A] }
}

/// A history of a broker that does everything right. Its places are used by number below.
fn clean() -> Vec<What> {
    vec![
        sent(1, 0, None),
        sent(2, 1, None),
        What::Acked { id: 1, offset: 0 },
        What::Acked { id: 2, offset: 2 },
        sent(3, 0, Some(1)),
        What::Acked { id: 3, offset: 4 },
        What::Ending { transaction: 1, commit: true },
        What::Ended { transaction: 1 },
        sent(4, 1, Some(2)),
        What::Acked { id: 4, offset: 7 },
        What::Ending { transaction: 2, commit: false },
        What::Ended { transaction: 2 },
        What::Read(read(false, log()[..3].to_vec())),
        What::Read(read(true, log()[..4].to_vec())),
        assigned("x", 1),
        assigned("y", 2),
        committing(1, 2),
        What::Committed { commit: 1 },
        committing(2, 4),
        What::Committed { commit: 2 },
        offset(4),
        What::Probed { what: Probe::SequenceGap, code: 45, wanted: &[45] },
        What::Scanned(scan()),
    ]
}

fn judged(whats: Vec<What>, power_loss: bool) -> Vec<u8> {
    let mut judge = Judge::default();
    let mut at_ns = 10;
    let mut events: Vec<Event> = Vec::new();
    for mut what in whats {
        at_ns += 10;
        if let What::Read(Read { asked_ns, .. }) | What::Offset { asked_ns, .. } = &mut what {
            *asked_ns = at_ns - 1;
        }
        events.push(Event { at_ns, what });
    }
    let last = events.pop().expect("something happened");
    judge.hear(&events);
    if power_loss {
        judge.power_loss();
    }
    judge.hear(&[last]);
    let mut rules: Vec<u8> = judge.violations().iter().map(|violation| violation.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

/// The clean history with `whats` instead of what stands at `at` for so many places.
fn with(at: usize, replaced: usize, whats: Vec<What>) -> Vec<What> {
    let mut all = clean();
    all.splice(at..at + replaced, whats);
    all
}

fn with_scan(change: impl FnOnce(&mut Scan)) -> Vec<What> {
    let mut scan = scan();
    change(&mut scan);
    with(22, 1, vec![What::Scanned(scan)])
}

fn with_read(change: impl FnOnce(&mut Read)) -> Vec<What> {
    let mut one = read(false, log()[..3].to_vec());
    change(&mut one);
    with(12, 1, vec![What::Read(one)])
}

fn breaks(rule: u8, whats: Vec<What>) {
    let found = judged(whats, false);
    assert!(found.contains(&rule), "rule {rule} was broken, found {found:?}");
}

#[test]
fn a_clean_history_is_clean() {
    assert_eq!(judged(clean(), false), NOTHING);
    assert_eq!(judged(clean(), true), NOTHING);
    // Who is not answered may have been served or not.
    let mut all = clean();
    all.splice(16..20, vec![committing(1, 2), What::Committed { commit: 1 }, committing(2, 4)]);
    assert_eq!(judged(all, false), NOTHING);
}

#[test]
fn rule_1_what_was_acknowledged_is_readable() {
    breaks(
        1,
        with_scan(|scan| {
            scan.batches.remove(1);
        }),
    );
    let found = judged(
        with_scan(|scan| {
            scan.batches.remove(1);
        }),
        true,
    );
    assert!(found.contains(&1), "also after a power loss: {found:?}");
}

#[test]
fn rule_2_an_offset_has_one_value_for_ever() {
    breaks(2, with_scan(|scan| (scan.batches[0].id, scan.batches[1].id) = (2, 1)));
    // Read by somebody and gone, without ever having been acknowledged.
    let unanswered = with_scan(|scan| {
        scan.batches.remove(1);
    });
    let unanswered: Vec<What> =
        unanswered.into_iter().filter(|what| !matches!(what, What::Acked { id: 2, .. })).collect();
    breaks(2, unanswered);
}

#[test]
fn rule_3_offsets_have_no_gaps() {
    breaks(3, with_scan(|scan| scan.end = 11));
    breaks(
        3,
        with_scan(|scan| {
            scan.batches.iter_mut().skip(1).for_each(|b| (b.base, b.next) = (b.base + 1, b.next + 1))
        }),
    );
    breaks(
        3,
        with_read(|read| {
            read.batches.remove(1);
        }),
    );
}

#[test]
fn rule_4_what_was_refused_is_never_visible() {
    breaks(4, with(3, 1, vec![What::Refused { id: 2, code: 45 }]));
}

#[test]
fn rule_5_idempotent_producers_have_no_duplicates() {
    breaks(5, with(4, 0, vec![What::Acked { id: 2, offset: 20 }]));
    breaks(
        5,
        with_scan(|scan| {
            scan.batches.push(seen(10, 2));
            scan.end = 12;
        }),
    );
    // A batch is missing between two others.
    breaks(5, with(1, 1, vec![sent(2, 2, None)]));
}

#[test]
fn rule_6_gaps_and_old_epochs_are_refused() {
    breaks(6, with(21, 1, vec![What::Probed { what: Probe::SequenceGap, code: 0, wanted: &[45] }]));
    breaks(6, with(21, 1, vec![What::Probed { what: Probe::OldEpoch, code: 0, wanted: &[47, 90] }]));
}

#[test]
fn rule_7_polls_go_on_where_they_ended() {
    breaks(
        7,
        with_read(|read| {
            read.batches.remove(0);
        }),
    );
    let back =
        vec![What::Read(read(false, log()[..3].to_vec())), What::Read(read(false, log()[..3].to_vec()))];
    breaks(7, with(12, 1, back));
    let placed = vec![
        What::Read(read(false, log()[..3].to_vec())),
        What::Placed { reader: 0, place: A, offset: 0 },
        What::Read(read(false, log()[..3].to_vec())),
    ];
    assert_eq!(judged(with(12, 1, placed), false), NOTHING);
}

#[test]
fn rule_8_sends_of_a_producer_keep_their_order() {
    let mut all = clean();
    all.splice(0..2, vec![sent(1, 1, None), sent(2, 0, None)]);
    breaks(8, all);
}

#[test]
fn rule_9_watermarks_never_fall() {
    let low = Read { from: 6, high_watermark: 8, last_stable: 8, ..read(false, vec![]) };
    breaks(9, with(13, 0, vec![What::Read(low)]));
    let low = Read { from: 6, last_stable: 8, ..read(false, vec![]) };
    breaks(9, with(13, 0, vec![What::Read(low)]));
    breaks(9, with_read(|read| read.last_stable = 10));
    // Below the watermark, of acks=all, never acknowledged, and gone after a power loss: it was not durable.
    let mut lost = with_scan(|scan| {
        scan.batches.truncate(1);
        scan.end = 2;
        scan.lookups.clear();
    });
    lost.retain(|what| !matches!(what, What::Acked { id: 2..=4, .. }));
    assert!(judged(lost, true).contains(&9));
}

#[test]
fn rule_10_nobody_reads_past_the_end_or_what_was_aborted() {
    breaks(10, with_read(|read| read.high_watermark = 5));
    let mut one = read(true, log()[..4].to_vec());
    one.last_stable = 5;
    breaks(10, with(13, 1, vec![What::Read(one)]));
    let mut one = read(true, log());
    one.high_watermark = 10;
    one.last_stable = 10;
    one.batches[4].aborted = false;
    breaks(10, with(13, 1, vec![What::Read(one)]));
}

#[test]
fn rule_11_transactions_are_all_or_nothing() {
    breaks(11, with_scan(|scan| scan.batches[2].aborted = true));
    breaks(11, with_scan(|scan| scan.batches[4].aborted = false));
    // The offset of a transaction that was aborted.
    let aborted = |transaction| What::Committing {
        group: "t".to_owned(),
        place: A,
        offset: 5,
        commit: 7,
        transaction: Some(transaction),
    };
    let told = |offset| What::Offset { group: "t".to_owned(), place: A, offset, asked_ns: 0 };
    breaks(11, with(12, 0, vec![aborted(2), told(5)]));
    // Half of one whose end was never answered.
    let mut all = clean();
    all.splice(
        4..8,
        vec![
            sent(3, 0, Some(1)),
            sent(5, 1, Some(1)),
            What::Acked { id: 3, offset: 4 },
            What::Acked { id: 5, offset: 10 },
            What::Ending { transaction: 1, commit: true },
        ],
    );
    let last = all.len() - 1;
    let mut whole = scan();
    whole.batches.push(Seen { aborted: true, ..seen(10, 5) });
    whole.end = 12;
    all[last] = What::Scanned(whole);
    breaks(11, all);
}

#[test]
fn rule_12_committed_offsets_stay() {
    breaks(12, with(20, 1, vec![offset(2)]));
    breaks(12, with(20, 1, vec![offset(-1)]));
    breaks(12, with(16, 4, vec![]));
    breaks(12, with(21, 1, vec![What::Probed { what: Probe::StaleGeneration, code: 0, wanted: &[22] }]));
    breaks(12, with(19, 1, vec![What::CommitRefused { commit: 2 }]));
}

#[test]
fn rule_13_a_partition_has_one_owner() {
    breaks(13, with(15, 1, vec![assigned("y", 1)]));
}

#[test]
fn rule_14_lookups_agree_with_the_log_and_its_start_never_falls() {
    breaks(14, with_scan(|scan| scan.lookups = vec![(1001, 0)]));
    let high = Read { from: 6, log_start: 1, ..read(false, vec![]) };
    breaks(14, with(13, 0, vec![What::Read(high)]));
}

#[test]
fn rule_15_bytes_out_are_bytes_in() {
    breaks(15, with_scan(|scan| scan.batches[1].id = 77));
    breaks(15, with_read(|read| read.batches[1].id = 77));
    breaks(15, with_scan(|scan| scan.batches[5] = Seen { control: false, ..scan.batches[5].clone() }));
}

#[test]
fn rule_16_all_is_seen_soon_after_the_faults() {
    let mut judge = Judge::default();
    let mut events: Vec<Event> =
        clean().into_iter().enumerate().map(|(at, what)| Event { at_ns: at as u64, what }).collect();
    events.last_mut().expect("a scan").at_ns = 31 * SECOND;
    judge.hear(&events);
    assert!(judge.violations().iter().any(|violation| violation.rule == 16));
}

fn given(offset: i64, member: &str) -> What {
    What::Given { place: A, offset, member: member.to_owned() }
}

fn settling(offset: i64, done: bool) -> What {
    What::Settling { place: A, offset, done }
}

fn settled(offset: i64) -> What {
    What::Settled { place: A, offset, code: 0 }
}

/// Three records: one is accepted, one is given back and accepted by another, one is left in a member's hands.
fn shared() -> Vec<What> {
    vec![
        What::Put { place: A, first: 0, next: 3 },
        given(0, "x"),
        settling(0, true),
        settled(0),
        given(1, "x"),
        settling(1, false),
        given(1, "y"),
        settling(1, true),
        settled(1),
        given(2, "y"),
        What::Parted { member: "y".to_owned() },
        given(2, "drain"),
        settling(2, true),
        settled(2),
        What::Drained { all: vec![(A, 2)] },
        // Something behind it, because the last event stands for what comes after a power loss.
        What::Put { place: A, first: 3, next: 4 },
    ]
}

#[test]
fn rule_17_a_share_group_is_done_with_a_record_once() {
    assert_eq!(judged(shared(), false), NOTHING);
    // Not answered: it may come back, or be done.
    let unanswered: Vec<What> =
        shared().into_iter().filter(|what| !matches!(what, What::Settled { offset: 0, .. })).collect();
    assert_eq!(judged(unanswered.clone(), false), NOTHING);
    let mut back = unanswered;
    back.insert(3, given(0, "y"));
    assert_eq!(judged(back, false), NOTHING);
    let inserted = |at: usize, what: What| {
        let mut all = shared();
        all.insert(at, what);
        all
    };
    // Accepted, and given again; before and behind a drain.
    breaks(17, inserted(4, given(0, "y")));
    breaks(17, inserted(15, given(0, "y")));
    // In two hands at once.
    breaks(17, inserted(5, given(1, "y")));
    // Refused, of a member that had it.
    breaks(17, inserted(4, What::Settled { place: A, offset: 0, code: 121 }));
    // Gone without anybody being done with it.
    let mut lost = shared();
    lost.drain(11..14);
    lost[11] = What::Drained { all: Vec::new() };
    breaks(17, lost);
}
