//! The verifier's producer on librdkafka: the same records and the same ledger, but the library batches, re-sends and,
//! with idempotence, promises that nothing is there twice.
//!
//! Owner: one thread. Invariants: a record's fate is the library's word for it; what it does not know is unknown.
//! Must not: end before every record has a fate.

use std::sync::atomic::Ordering;

use super::ffi::{self, Delivery, Status};
use crate::error::Result;
use crate::record::{Counters, Kind, Side};
use crate::sys;
use crate::verify::ledger::Lane;
use crate::verify::producer::{ProducerEnd, ProducerSpec, remember};
use crate::verify::record::{Stamp, VALUE_BYTES_MIN};
use crate::verify::timeline::Recorders;

/// A delivery later than this is behind the schedule, nanoseconds.
const LATE_NS: u64 = 50_000_000;

struct Book {
    end: ProducerEnd,
    recorders: Recorders,
    last_ack_ns: u64,
    late_since_ns: Option<u64>,
}

impl Book {
    fn take(&mut self, delivery: &Delivery) {
        let now = sys::now_ns();
        let Some(stamp) = Stamp::peek(&delivery.head) else { return };
        let lane = &mut self.end.lanes[stamp.partition as usize];
        let (first, end) = (stamp.number, stamp.number + 1);
        match (delivery.error, delivery.status) {
            (0, _) => {
                if delivery.offset >= 0 {
                    lane.acked(first, 1, delivery.offset);
                } else {
                    // Of a batch that was re-sent the library does not always learn the offset.
                    lane.unplaced.insert(first, end);
                }
                let counters = Counters { requests: 1, records: 1, bytes: delivery.bytes };
                self.recorders.count(Side::Produced, now, counters);
                let response_ns = now.saturating_sub(stamp.intended_ns);
                self.recorders.sample(Kind::Response, stamp.intended_ns, response_ns);
                remember(&mut self.end.silences, (self.last_ack_ns, now));
                self.last_ack_ns = now;
                match (response_ns > LATE_NS, self.late_since_ns) {
                    (true, None) => self.late_since_ns = Some(stamp.intended_ns),
                    (false, Some(since)) => {
                        remember(&mut self.end.delays, (since, now));
                        self.late_since_ns = None;
                    }
                    _ => {}
                }
            }
            (error, Status::NotPersisted) => {
                lane.failed.insert(first, end);
                self.end.last_error = Some(format!("librdkafka error {error}"));
            }
            (error, _) => {
                lane.unknown.insert(first, end);
                self.end.last_error = Some(format!("librdkafka error {error}"));
            }
        }
    }
}

fn settings(bootstrap: &str, spec: &ProducerSpec, idempotent: bool) -> Vec<(&'static str, String)> {
    vec![
        ("bootstrap.servers", bootstrap.to_owned()),
        ("enable.idempotence", idempotent.to_string()),
        ("acks", spec.acks.to_string()),
        ("linger.ms", "2".into()),
        ("message.timeout.ms", spec.timeout.as_millis().max(1_000).to_string()),
        ("max.in.flight", spec.in_flight.min(5).to_string()),
        ("reconnect.backoff.ms", "20".into()),
        ("reconnect.backoff.max.ms", "200".into()),
        ("retry.backoff.ms", "20".into()),
        ("queue.buffering.max.messages", "1000000".into()),
        // Its complaints about a server that is down are what is expected here.
        ("log_level", "0".into()),
    ]
}

/// Produces to the end of the schedule and waits for every record's fate.
///
/// # Errors
/// When the library cannot be loaded or refuses a setting.
pub(crate) fn produce(
    bootstrap: &str,
    mut spec: ProducerSpec,
    recorders: Recorders,
    idempotent: bool,
) -> Result<ProducerEnd> {
    sys::sharp_timers();
    let client = ffi::Producer::new(&settings(bootstrap, &spec, idempotent), &spec.topic)?;
    let end = ProducerEnd { lanes: vec![Lane::default(); spec.partitions], ..ProducerEnd::default() };
    let last_ack_ns = spec.schedule.due_ns();
    let mut book = Book { end, recorders, last_ack_ns, late_since_ns: None };
    let mut turn = spec.producer as usize;
    loop {
        let now = sys::now_ns();
        book.recorders.roll(now);
        let due = spec.schedule.due_ns();
        if due >= spec.end_ns || spec.abort.load(Ordering::Relaxed) {
            break;
        }
        if due > now {
            client.poll(0, |delivery| book.take(delivery));
            let left = due.saturating_sub(sys::now_ns()).min(200_000);
            std::thread::sleep(std::time::Duration::from_nanos(left));
            continue;
        }
        let partition = spec.mine[turn % spec.mine.len()];
        turn += 1;
        spec.schedule.advance();
        for _ in 0..spec.records {
            let lane = &mut book.end.lanes[partition as usize];
            let stamp = Stamp {
                run: spec.run,
                producer: spec.producer,
                partition: partition as u32,
                number: lane.next,
                intended_ns: due,
            };
            // What the library refuses was never sent: its number goes to the next record.
            match client.produce(partition, &[], &stamp.encode(spec.record_bytes.max(VALUE_BYTES_MIN))) {
                Ok(()) => lane.next += 1,
                Err(error) => book.end.last_error = Some(format!("librdkafka error {error}")),
            }
        }
        book.recorders.sample(Kind::Lag, due, now.saturating_sub(due));
        client.poll(0, |delivery| book.take(delivery));
    }
    let patient = || sys::now_ns() < spec.deadline_ns && !spec.abort.load(Ordering::Relaxed);
    while client.waiting() > 0 && patient() {
        client.poll(10, |delivery| book.take(delivery));
        book.recorders.roll(sys::now_ns());
    }
    client.give_up();
    while client.waiting() > 0 && sys::now_ns() < spec.deadline_ns + 1_000_000_000 {
        client.poll(10, |delivery| book.take(delivery));
    }
    if let Some(since) = book.late_since_ns {
        remember(&mut book.end.delays, (since, sys::now_ns()));
    }
    book.recorders.finish();
    Ok(book.end)
}
