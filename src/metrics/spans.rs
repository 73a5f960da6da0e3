//! The requests of one connection on their way from the first byte to the answer, for the histograms.
//!
//! Owner: the connection. Invariants: answers leave in the order of the requests, so that a queue is enough;
//! it is as long as the connection's pipeline is deep, and takes its memory with the first request.
//! It must not influence what it watches.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use super::{Counter, Series, add, count_request, now_ns, record};

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    api_key: i16,
    received_ns: u64,
    made_ns: u64,
}

/// Receive, queue, reply and total of an API.
fn series_of(api_key: i16) -> [Series; 4] {
    match api_key {
        0 => [Series::ProduceReceive, Series::ProduceQueue, Series::ProduceReply, Series::ProduceTotal],
        1 => [Series::FetchReceive, Series::FetchQueue, Series::FetchReply, Series::FetchTotal],
        _ => [Series::OtherReceive, Series::OtherQueue, Series::OtherReply, Series::OtherTotal],
    }
}

/// The requests of one connection that are not answered.
#[derive(Debug, Default)]
pub struct Spans {
    began_ns: Cell<u64>,
    open: RefCell<VecDeque<Span>>,
    made: Cell<usize>,
}

impl Spans {
    /// Part of a frame is there; the rest is still to come.
    pub fn frame_began(&self) {
        if self.began_ns.get() == 0 {
            self.began_ns.set(now_ns());
        }
    }

    /// A whole frame is there: `head` is its beginning, `size` its size in bytes.
    pub fn received(&self, head: &[u8], size: usize) -> Span {
        let api_key = head.first_chunk::<2>().map_or(-1, |bytes| i16::from_be_bytes(*bytes));
        let received_ns = now_ns();
        count_request(api_key);
        add(Counter::RequestBytes, size as u64);
        let began_ns = self.began_ns.replace(0);
        if began_ns > 0 {
            record(series_of(api_key)[0], received_ns.saturating_sub(began_ns));
        }
        Span { api_key, received_ns, made_ns: 0 }
    }

    /// The request goes to its handler.
    pub fn dispatched(&self, span: &Span) -> u64 {
        let now = now_ns();
        record(series_of(span.api_key)[1], now.saturating_sub(span.received_ns));
        now
    }

    /// The handler, begun at `since_ns`, let go of the request; its answer joins the queue.
    pub fn handled(&self, span: Span, since_ns: u64) {
        if !matches!(span.api_key, 0 | 1) {
            record(Series::OtherHandle, now_ns().saturating_sub(since_ns));
        }
        self.open.borrow_mut().push_back(span);
    }

    /// The next answer in the queue is made.
    pub fn made(&self) {
        let mut open = self.open.borrow_mut();
        if let Some(span) = open.get_mut(self.made.get()) {
            span.made_ns = now_ns();
            self.made.set(self.made.get() + 1);
        }
    }

    /// All answers made so far are with the kernel.
    pub fn sent(&self) {
        let mut open = self.open.borrow_mut();
        let now = now_ns();
        for span in open.drain(..self.made.replace(0)) {
            let [_, _, reply, total] = series_of(span.api_key);
            record(reply, now.saturating_sub(span.made_ns));
            record(total, now.saturating_sub(span.received_ns));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{snapshot, start_core};
    use super::*;

    #[test]
    fn every_request_ends_up_once_in_each_of_its_stages() {
        std::thread::spawn(|| {
            start_core();
            let spans = Spans::default();
            spans.frame_began();
            for (turn, api_key) in [0i16, 1, 3, 0].into_iter().enumerate() {
                let span = spans.received(&api_key.to_be_bytes(), 100);
                let since = spans.dispatched(&span);
                spans.handled(span, since);
                spans.made();
                if turn % 2 == 1 {
                    spans.sent();
                }
            }
            spans.made();
            let counts = |series: Series| snapshot().histogram(series as usize).iter().sum::<u64>();
            assert_eq!((counts(Series::ProduceReceive), counts(Series::FetchReceive)), (1, 0));
            assert_eq!((counts(Series::ProduceTotal), counts(Series::FetchTotal)), (2, 1));
            assert_eq!((counts(Series::OtherTotal), counts(Series::OtherHandle)), (1, 1));
            assert_eq!((counts(Series::ProduceQueue), counts(Series::ProduceReply)), (2, 2));
            assert_eq!(snapshot().counters[Counter::RequestBytes as usize], 400);
        })
        .join()
        .unwrap();
    }
}
