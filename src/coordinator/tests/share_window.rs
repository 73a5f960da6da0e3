//! The window of a share partition: by example, and against a model that keeps one entry for each offset.

use std::collections::BTreeMap;

use super::*;

const RULES: Rules = Rules { deliveries_max: 3, records_max: 100 };

struct World {
    window: Window,
    now_ms: i64,
}

fn acquisition(member: &str, session: u64, left: i64, whole_batches: bool, at: i64) -> Acquisition {
    Acquisition {
        owner: Rc::new(Owner { member: member.to_owned(), session }),
        deadline_ms: 0,
        left,
        whole_batches,
        batch_size: 1000,
        at,
        taken: Vec::new(),
    }
}

impl World {
    fn new(start: i64) -> World {
        World { window: Window::new(start), now_ms: 0 }
    }

    /// Fetches from a log of these batches, as the broker would: from the batch that holds the next offset.
    fn fetch(&mut self, member: &str, left: i64, whole: bool, log: &[Span]) -> Vec<(i64, i64, i16)> {
        let Some(at) = self.window.next_offset(RULES) else { return Vec::new() };
        let mut acquisition = acquisition(member, session_of(member), left, whole, at);
        acquisition.deadline_ms = self.now_ms + 30;
        for span in log.iter().filter(|span| span.last >= at) {
            if !self.window.acquire(&mut acquisition, *span, RULES) {
                break;
            }
        }
        acquisition.taken.iter().map(|one| (one.first, one.last, one.deliveries)).collect()
    }

    fn ack(&mut self, member: &str, first: i64, last: i64, kind: i8) -> Result<(), AckError> {
        let batch = AckBatch { first, last, types: vec![kind] };
        self.window.acknowledge(member, &[batch], self.now_ms + 30, RULES)
    }
}

fn session_of(member: &str) -> u64 {
    u64::from(member.as_bytes()[0])
}

fn span(first: i64, last: i64) -> Span {
    Span { first, last, wanted: true }
}

fn tens(count: i64) -> Vec<Span> {
    (0..count).map(|at| span(at * 10, at * 10 + 9)).collect()
}

#[test]
fn members_get_different_records_and_the_start_follows_the_acknowledgements() {
    let mut world = World::new(0);
    let log = tens(5);
    assert_eq!(world.fetch("a", 15, true, &log), [(0, 19, 1)]);
    assert_eq!(world.fetch("b", 10, true, &log), [(20, 29, 1)]);
    assert_eq!(world.window.run_count(), 2);
    assert_eq!(world.ack("b", 20, 29, 1), Ok(()));
    assert_eq!((world.window.start(), world.window.in_flight()), (0, 30));
    assert_eq!(world.ack("a", 0, 4, 1), Ok(()));
    assert_eq!(world.window.start(), 5);
    assert_eq!(world.ack("b", 5, 9, 1), Err(AckError::State), "not the owner");
    assert_eq!(world.ack("a", 0, 9, 1), Ok(()), "what lies below the start is done whatever is said");
    assert_eq!(world.ack("a", 10, 25, 1), Err(AckError::State), "some of it is not acquired");
    assert_eq!(world.ack("a", 10, 19, 1), Ok(()));
    assert_eq!((world.window.start(), world.window.end(), world.window.run_count()), (30, 30, 0));
}

#[test]
fn records_come_back_until_they_are_given_up() {
    let mut world = World::new(0);
    let log = tens(1);
    assert_eq!(world.fetch("a", 100, true, &log), [(0, 9, 1)]);
    assert_eq!(world.ack("a", 3, 4, 2), Ok(()));
    assert_eq!(world.fetch("b", 100, true, &log), [(3, 4, 2)]);
    world.now_ms = 31;
    assert!(world.window.expire(world.now_ms, RULES));
    assert!(!world.window.expire(world.now_ms, RULES));
    assert_eq!(world.fetch("c", 100, true, &log), [(0, 2, 2), (3, 4, 3), (5, 9, 2)]);
    assert!(world.window.release_session(session_of("c"), RULES));
    // The third delivery of 3 and 4 was the last one.
    assert_eq!(world.fetch("d", 100, true, &log), [(0, 2, 3), (5, 9, 3)]);
    assert_eq!(world.ack("d", 0, 2, 3), Ok(()));
    assert_eq!(world.window.start(), 5);
}

#[test]
fn limits_are_strict_or_follow_batches_and_the_window_is_bounded() {
    let log = tens(50);
    let mut strict = World::new(0);
    assert_eq!(strict.fetch("a", 15, false, &log), [(0, 14, 1)]);
    assert_eq!(strict.fetch("a", 15, false, &log), [(15, 29, 1)]);
    let mut whole = World::new(0);
    assert_eq!(whole.fetch("a", 1, true, &log), [(0, 9, 1)]);
    let huge = [span(0, 999)];
    let mut bounded = World::new(0);
    assert_eq!(bounded.fetch("a", 500, true, &huge), [(0, 99, 1)]);
    assert_eq!(bounded.window.next_offset(RULES), None);
    assert_eq!(bounded.ack("a", 0, 9, 1), Ok(()));
    assert_eq!(bounded.fetch("a", 500, true, &huge), [(100, 109, 1)]);
}

#[test]
fn holes_and_what_is_not_for_consumers_are_stepped_over() {
    let mut world = World::new(0);
    let log = [span(0, 4), Span { first: 5, last: 5, wanted: false }, span(20, 24)];
    assert_eq!(world.fetch("a", 100, true, &log), [(0, 4, 1), (20, 24, 1)]);
    assert_eq!(world.window.in_flight(), 10);
    assert_eq!(world.ack("a", 0, 4, 1), Ok(()));
    assert_eq!(world.window.start(), 20);
    // Deleted from the log, whoever has it.
    assert!(world.window.raise_start(23));
    assert_eq!((world.window.start(), world.ack("a", 20, 24, 1)), (23, Ok(())));
    assert_eq!(world.window.start(), 25);
    assert!(world.window.raise_start(40) && !world.window.raise_start(40));
    assert_eq!((world.window.start(), world.window.end()), (40, 40));
}

#[test]
fn requests_that_contradict_themselves_change_nothing() {
    let mut world = World::new(0);
    world.fetch("a", 10, true, &tens(1));
    let before = world.window.image();
    let batch = |first, last, types: &[i8]| AckBatch { first, last, types: types.to_vec() };
    for bad in [
        vec![batch(0, 3, &[])],
        vec![batch(0, 3, &[1, 1])],
        vec![batch(3, 2, &[1])],
        vec![batch(-1, 2, &[1])],
        vec![batch(0, 3, &[5])],
        vec![batch(0, 3, &[-1])],
        vec![batch(0, 3, &[1]), batch(3, 4, &[1])],
        vec![batch(4, 5, &[1]), batch(0, 1, &[1])],
        vec![batch(0, i64::MAX, &[1])],
    ] {
        assert_eq!(world.window.acknowledge("a", &bad, 0, RULES), Err(AckError::Invalid), "{bad:?}");
    }
    let far = vec![batch(0, 3, &[1]), batch(8, 10, &[1])];
    assert_eq!(world.window.acknowledge("a", &far, 0, RULES), Err(AckError::State));
    assert_eq!(world.window.image(), before);
    let mixed = [batch(0, 3, &[1, 2, 3, 0]), batch(5, 5, &[4])];
    assert_eq!(world.window.acknowledge("a", &mixed, 99, RULES), Ok(()));
    world.now_ms = 50;
    world.window.expire(50, RULES);
    assert_eq!(world.fetch("b", 100, true, &tens(1)), [(1, 1, 2), (4, 4, 2), (6, 9, 2)], "5 was renewed");
}

#[test]
fn an_image_forgets_who_has_what_and_nothing_else() {
    let mut world = World::new(0);
    let log = tens(3);
    world.fetch("a", 30, true, &log);
    world.ack("a", 10, 14, 1).expect("acquired");
    world.ack("a", 15, 16, 2).expect("acquired");
    world.ack("a", 18, 18, 3).expect("acquired");
    let image = world.window.image();
    let batch = |first, last, state, deliveries| StateBatch { first, last, state, deliveries };
    assert_eq!(image.start, 0);
    assert_eq!(
        image.batches,
        [
            batch(0, 9, RecordState::Available, 0),
            batch(10, 14, RecordState::Acknowledged, 1),
            batch(15, 16, RecordState::Available, 1),
            batch(17, 17, RecordState::Available, 0),
            batch(18, 18, RecordState::Archived, 1),
        ]
    );
    assert_eq!(image.complete_count(), 6);
    let mut again = World { window: Window::restore(&image), now_ms: 0 };
    assert_eq!(again.window.image(), image);
    assert_eq!(again.fetch("b", 100, true, &log), [(0, 9, 1), (15, 16, 2), (17, 17, 1), (19, 29, 1)]);
    // What no batch mentions is available, and batches that overlap or lie apart do no harm.
    let odd = [
        batch(7, 8, RecordState::Acknowledged, 1),
        batch(8, 9, RecordState::Archived, 1),
        batch(3, 2, RecordState::Archived, 1),
    ];
    let window = Window::restore(&Image { start: 5, batches: odd.to_vec() });
    assert_eq!((window.start(), window.end(), window.next_offset(RULES)), (5, 10, Some(5)));
}

/// What the model knows of an offset that is in flight.
#[derive(Clone, Debug, PartialEq)]
struct Cell {
    state: RecordState,
    deliveries: i16,
    owner: Option<(String, i64)>,
}

#[derive(Default)]
struct Model {
    start: i64,
    cells: BTreeMap<i64, Cell>,
}

impl Model {
    fn advance(&mut self) {
        while self.cells.get(&self.start).is_some_and(|cell| cell.state.is_final()) {
            self.cells.remove(&self.start);
            self.start += 1;
        }
    }

    fn release(&mut self, due: impl Fn(&(String, i64)) -> bool) {
        for cell in self.cells.values_mut() {
            if cell.owner.as_ref().is_some_and(&due) {
                cell.owner = None;
                let worn_out = cell.deliveries >= RULES.deliveries_max;
                cell.state = if worn_out { RecordState::Archived } else { RecordState::Available };
            }
        }
        self.advance();
    }

    fn acknowledge(&mut self, member: &str, first: i64, last: i64, kind: i8) -> bool {
        let range = first.max(self.start)..=last;
        let owned = |at: i64| {
            let owner = self.cells.get(&at).and_then(|cell| cell.owner.as_ref());
            owner.is_some_and(|(owner, _)| owner == member)
        };
        if !range.clone().all(owned) {
            return false;
        }
        for at in range {
            let cell = self.cells.get_mut(&at).expect("owned");
            cell.owner = None;
            cell.state = match kind {
                1 => RecordState::Acknowledged,
                2 if cell.deliveries < RULES.deliveries_max => RecordState::Available,
                _ => RecordState::Archived,
            };
        }
        self.advance();
        true
    }
}

/// The same offsets in the same states, whatever is done; runs only where something differs.
fn agree(window: &Window, model: &Model, now_ms: i64) {
    assert_eq!(window.start, model.start);
    let mut at = window.start;
    let mut before: Option<&Run> = None;
    for (first, run) in &window.runs {
        assert_eq!(*first, at, "no gap, no overlap");
        assert!(
            before.is_none_or(|before| !before.says_the_same(run)),
            "neighbours that say the same are one"
        );
        before = Some(run);
        for offset in *first..=run.last {
            let cell = model.cells.get(&offset).unwrap_or_else(|| panic!("{offset} is not in flight"));
            assert_eq!(run.state, cell.state, "{offset}");
            let owner = run.owner.as_ref().map(|owner| (owner.member.clone(), run.deadline_ms));
            assert_eq!(owner, cell.owner, "{offset} at {now_ms}");
            if run.state != RecordState::Acknowledged {
                assert_eq!(run.deliveries, cell.deliveries, "{offset}");
            }
        }
        at = run.last + 1;
    }
    assert_eq!(at, window.end);
    let last = model.cells.keys().next_back().map_or(model.start, |last| last + 1);
    assert_eq!(last.max(model.start), window.end);
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end) as i64
    }
}

/// Batches of random sizes, some of them markers, with holes between some.
fn random_log(random: &mut Random) -> Vec<Span> {
    let mut log = Vec::new();
    let mut at = 0;
    for _ in 0..120 {
        at += if random.below(6) == 0 { random.below(4) } else { 0 };
        let last = at + random.below(12);
        log.push(Span { first: at, last, wanted: random.below(8) > 0 });
        at = last + 1;
    }
    log
}

#[test]
fn the_window_does_what_a_model_does() {
    let mut acknowledged_in_all = 0;
    for seed in 0..40 {
        let mut random = Random(seed);
        let log = random_log(&mut random);
        let (mut world, mut model) = (World::new(0), Model::default());
        for _ in 0..400 {
            world.now_ms += random.below(8);
            let member = ["a", "b", "c"][random.below(3) as usize];
            match random.below(8) {
                0..=2 => {
                    let left = 1 + random.below(30);
                    let end = world.window.end();
                    let given = world.fetch(member, left, random.below(2) == 0, &log);
                    // What the window walked over without giving it out is no record.
                    for offset in end..world.window.end() {
                        let cell = Cell { state: RecordState::Archived, deliveries: 0, owner: None };
                        model.cells.insert(offset, cell);
                    }
                    for (first, last, deliveries) in given {
                        for offset in first..=last {
                            assert!(log.iter().any(|s| s.wanted && (s.first..=s.last).contains(&offset)));
                            let known = model.cells.get(&offset).cloned();
                            let fresh = offset >= end;
                            let known = known.filter(|_| !fresh);
                            assert!(known.as_ref().is_none_or(|cell| cell.state == RecordState::Available));
                            assert_eq!(deliveries, known.map_or(0, |cell| cell.deliveries) + 1);
                            let owner = Some((member.to_owned(), world.now_ms + 30));
                            model
                                .cells
                                .insert(offset, Cell { state: RecordState::Acquired, deliveries, owner });
                        }
                    }
                    model.advance();
                    assert!(world.window.in_flight() <= RULES.records_max);
                }
                3..=5 => {
                    let first = world.window.start() + random.below(40) - 3;
                    let last = first + random.below(12);
                    let kind = 1 + random.below(3) as i8;
                    if first >= 0 && last >= first {
                        let done = world.ack(member, first, last, kind);
                        assert_eq!(done == Ok(()), model.acknowledge(member, first, last, kind));
                        acknowledged_in_all += i64::from(done == Ok(()));
                    }
                }
                6 => {
                    let now_ms = world.now_ms;
                    world.window.expire(now_ms, RULES);
                    model.release(|(_, deadline_ms)| *deadline_ms <= now_ms);
                }
                _ if random.below(4) == 0 => {
                    world.window.release_session(session_of(member), RULES);
                    model.release(|(owner, _)| owner == member);
                }
                _ if random.below(8) == 0 => {
                    // A restart: what was acquired is available again, and that delivery does not count.
                    world.window = Window::restore(&world.window.image());
                    for cell in model.cells.values_mut().filter(|cell| cell.owner.is_some()) {
                        let deliveries = cell.deliveries - 1;
                        *cell = Cell { state: RecordState::Available, deliveries, owner: None };
                    }
                    while let Some(last) = model.cells.last_entry()
                        && last.get().state == RecordState::Available
                        && last.get().deliveries == 0
                    {
                        last.remove();
                    }
                }
                _ => {}
            }
            agree(&world.window, &model, world.now_ms);
        }
    }
    assert!(acknowledged_in_all > 500, "the test must get somewhere: {acknowledged_in_all}");
}
