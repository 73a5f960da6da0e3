//! Walks fetch responses (v11) as a stream: batch headers are looked at, batch bodies only pass by.
//!
//! Owner: one consumer connection. Memory is a small peek buffer whatever the size of the response.
//! Invariant: exactly the frame's length is consumed, whatever the nested lengths claim. Must not: allocate
//! by a length from the wire.

use crate::batch::{CRC_FROM, HEADER_BYTES, STAMP_BYTES, STAMP_MARK};
use crate::error::{Result, protocol};
use crate::limits::{BATCH_PEEK_BYTES, FETCH_RESPONSE_BYTES_MAX, TOPIC_NAME_BYTES_MAX};
use crate::wire::Reader;

/// What a walk comes across.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The head of a partition's data.
    Partition {
        /// Its index.
        index: i32,
        /// Its Kafka error code.
        code: i16,
        /// Its high watermark.
        high_watermark: i64,
    },
    /// A whole batch has arrived.
    Batch {
        /// The partition it belongs to.
        partition: i32,
        /// Offset behind its last record.
        next_offset: i64,
        /// Its records.
        records: u64,
        /// Its size in bytes.
        bytes: u64,
        /// Intended and actual send time when its first value is stamped.
        stamps: Option<(u64, u64)>,
    },
    /// The response is complete.
    End {
        /// Its correlation id.
        correlation: i32,
        /// Its top-level error code.
        code: i16,
        /// Its fetch session; 0 is none.
        session: i32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    FrameHead,
    ResponseHead,
    TopicNameLength,
    TopicName,
    PartitionHead,
    RecordsLength,
    BatchHead,
    BatchPeek,
    Skip,
}

/// The state of a walk, fed with whatever the socket gives.
#[derive(Debug)]
pub(crate) struct FetchWalk {
    state: State,
    /// Bytes still wanted in `peek` before the state can act.
    want: usize,
    peek: Vec<u8>,
    /// Bytes of the frame not yet consumed.
    frame_left: usize,
    skip_left: usize,
    topics_left: usize,
    partitions_left: usize,
    records_left: usize,
    /// What is skipped is the list of aborted transactions, not a batch.
    skips_aborted: bool,
    correlation: i32,
    code: i16,
    session: i32,
    partition: i32,
    batch: Option<Batch>,
    check_crc: bool,
    crc: u32,
}

#[derive(Debug, Clone, Copy)]
struct Batch {
    next_offset: i64,
    records: u64,
    bytes: usize,
    crc: u32,
    stamps: Option<(u64, u64)>,
}

impl FetchWalk {
    /// A walk at the start of a response. With `check_crc` every batch's CRC32C is verified.
    pub(crate) fn new(check_crc: bool) -> Self {
        Self {
            state: State::FrameHead,
            want: 4,
            peek: Vec::with_capacity(TOPIC_NAME_BYTES_MAX + 64),
            frame_left: 0,
            skip_left: 0,
            topics_left: 0,
            partitions_left: 0,
            records_left: 0,
            skips_aborted: false,
            correlation: 0,
            code: 0,
            session: 0,
            partition: 0,
            batch: None,
            check_crc,
            crc: 0,
        }
    }

    /// Consumes `bytes` and reports what was in them.
    ///
    /// # Errors
    /// When the bytes are no fetch response.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        events: &mut impl FnMut(Event) -> Result<()>,
    ) -> Result<()> {
        while !bytes.is_empty() || self.ready() {
            if self.state == State::Skip {
                let count = self.skip_left.min(bytes.len());
                self.pass(&bytes[..count])?;
                bytes = &bytes[count..];
                self.skip_left -= count;
                if self.skip_left == 0 {
                    self.end_of_skip(events)?;
                }
                continue;
            }
            let count = (self.want - self.peek.len()).min(bytes.len());
            self.peek.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.state != State::FrameHead {
                self.frame_left = self
                    .frame_left
                    .checked_sub(count)
                    .ok_or_else(|| protocol("fetch response runs over its frame"))?;
            }
            if self.peek.len() == self.want {
                let peek = std::mem::take(&mut self.peek);
                self.act(&peek, events)?;
                self.peek = peek;
                self.peek.clear();
            }
        }
        Ok(())
    }

    /// Whether a step can be made without more input.
    fn ready(&self) -> bool {
        match self.state {
            State::Skip => self.skip_left == 0,
            _ => self.peek.len() == self.want,
        }
    }

    fn pass(&mut self, bytes: &[u8]) -> Result<()> {
        if self.check_crc && self.batch.is_some() {
            self.crc = crc32c::crc32c_append(self.crc, bytes);
        }
        self.frame_left = self
            .frame_left
            .checked_sub(bytes.len())
            .ok_or_else(|| protocol("fetch response runs over its frame"))?;
        Ok(())
    }

    fn go(&mut self, state: State, want: usize) -> Result<()> {
        if want > self.frame_left && state != State::FrameHead {
            return Err(protocol("fetch response ends inside a field"));
        }
        self.state = state;
        self.want = want;
        Ok(())
    }

    fn act(&mut self, peek: &[u8], events: &mut impl FnMut(Event) -> Result<()>) -> Result<()> {
        let mut reader = Reader::new(peek);
        match self.state {
            State::FrameHead => {
                self.frame_left = reader.i32()? as u32 as usize;
                if self.frame_left > FETCH_RESPONSE_BYTES_MAX {
                    return Err(protocol(format!("fetch response of {} bytes", self.frame_left)));
                }
                self.go(State::ResponseHead, 18)
            }
            State::ResponseHead => {
                self.correlation = reader.i32()?;
                reader.i32()?;
                self.code = reader.i16()?;
                self.session = reader.i32()?;
                self.topics_left = usize::try_from(reader.i32()?).unwrap_or(0);
                self.next_topic(events)
            }
            State::TopicNameLength => {
                let length = usize::try_from(reader.i16()?).unwrap_or(0);
                if length > TOPIC_NAME_BYTES_MAX {
                    return Err(protocol("topic name too long"));
                }
                self.go(State::TopicName, length + 4)
            }
            State::TopicName => {
                reader.take(peek.len() - 4)?;
                self.partitions_left = usize::try_from(reader.i32()?).unwrap_or(0);
                self.next_partition(events)
            }
            State::PartitionHead => {
                self.partition = reader.i32()?;
                let code = reader.i16()?;
                let high_watermark = reader.i64()?;
                reader.take(16)?;
                let aborted = usize::try_from(reader.i32()?).unwrap_or(0);
                events(Event::Partition { index: self.partition, code, high_watermark })?;
                self.skip_left = aborted
                    .checked_mul(16)
                    .filter(|bytes| *bytes <= self.frame_left)
                    .ok_or_else(|| protocol("aborted transactions run over the frame"))?;
                self.skips_aborted = true;
                self.go(State::Skip, 0)
            }
            State::RecordsLength => {
                reader.i32()?;
                self.records_left = usize::try_from(reader.i32()?).unwrap_or(0);
                if self.records_left > self.frame_left {
                    return Err(protocol("records run over the frame"));
                }
                self.next_batch(events)
            }
            State::BatchHead => self.batch_head(peek, events),
            State::BatchPeek => {
                if self.check_crc {
                    self.crc = crc32c::crc32c_append(self.crc, peek);
                }
                if let Some(batch) = &mut self.batch {
                    batch.stamps = stamps_of(peek);
                    self.skip_left = batch.bytes - HEADER_BYTES - peek.len();
                }
                self.go(State::Skip, 0)
            }
            State::Skip => Err(protocol("fetch walk lost its way")),
        }
    }

    fn next_topic(&mut self, events: &mut impl FnMut(Event) -> Result<()>) -> Result<()> {
        if self.topics_left > 0 {
            self.topics_left -= 1;
            return self.go(State::TopicNameLength, 2);
        }
        if self.frame_left > 0 {
            return Err(protocol(format!("{} bytes behind a fetch response", self.frame_left)));
        }
        events(Event::End { correlation: self.correlation, code: self.code, session: self.session })?;
        self.go(State::FrameHead, 4)
    }

    fn next_partition(&mut self, events: &mut impl FnMut(Event) -> Result<()>) -> Result<()> {
        if self.partitions_left > 0 {
            self.partitions_left -= 1;
            return self.go(State::PartitionHead, 34);
        }
        self.next_topic(events)
    }

    fn next_batch(&mut self, events: &mut impl FnMut(Event) -> Result<()>) -> Result<()> {
        self.batch = None;
        if self.records_left >= HEADER_BYTES {
            return self.go(State::BatchHead, HEADER_BYTES);
        }
        if self.records_left > 0 {
            // The end of a batch that the limits cut off.
            self.skip_left = std::mem::take(&mut self.records_left);
            return self.go(State::Skip, 0);
        }
        self.next_partition(events)
    }

    fn batch_head(&mut self, peek: &[u8], events: &mut impl FnMut(Event) -> Result<()>) -> Result<()> {
        let mut reader = Reader::new(peek);
        let base_offset = reader.i64()?;
        let bytes = usize::try_from(reader.i32()?).unwrap_or(0).saturating_add(12);
        reader.i32()?;
        if reader.i8()? != 2 || bytes < HEADER_BYTES {
            return Err(protocol(format!("no batch of magic 2 at offset {base_offset}")));
        }
        let crc = reader.i32()? as u32;
        reader.i16()?;
        let last_delta = reader.i32()?;
        reader.take(30)?;
        let records = reader.i32()?;
        if bytes > self.records_left {
            self.skip_left = self.records_left - HEADER_BYTES;
            self.records_left = 0;
            return if self.skip_left == 0 { self.next_batch(events) } else { self.go(State::Skip, 0) };
        }
        self.records_left -= bytes;
        self.crc = if self.check_crc { crc32c::crc32c(&peek[CRC_FROM..]) } else { 0 };
        self.batch = Some(Batch {
            next_offset: base_offset.saturating_add(i64::from(last_delta)).saturating_add(1),
            records: u64::try_from(records).unwrap_or(0),
            bytes,
            crc,
            stamps: None,
        });
        self.go(State::BatchPeek, (bytes - HEADER_BYTES).min(BATCH_PEEK_BYTES))
    }

    fn end_of_skip(&mut self, events: &mut impl FnMut(Event) -> Result<()>) -> Result<()> {
        if let Some(batch) = self.batch.take() {
            if self.check_crc && self.crc != batch.crc {
                return Err(protocol(format!("wrong CRC before offset {}", batch.next_offset)));
            }
            events(Event::Batch {
                partition: self.partition,
                next_offset: batch.next_offset,
                records: batch.records,
                bytes: batch.bytes as u64,
                stamps: batch.stamps,
            })?;
            return self.next_batch(events);
        }
        if std::mem::take(&mut self.skips_aborted) {
            return self.go(State::RecordsLength, 8);
        }
        self.next_batch(events)
    }
}

/// The stamps in the first record of a batch, given the bytes behind the batch header.
fn stamps_of(peek: &[u8]) -> Option<(u64, u64)> {
    let mut reader = Reader::new(peek);
    reader.varlong().ok()?;
    reader.take(1).ok()?;
    reader.varlong().ok()?;
    reader.varlong().ok()?;
    let key = usize::try_from(reader.varlong().ok()?).unwrap_or(0);
    reader.take(key).ok()?;
    reader.varlong().ok()?;
    let value = reader.take(STAMP_BYTES).ok()?;
    if value[..8] != STAMP_MARK {
        return None;
    }
    let mut stamps = Reader::new(&value[8..]);
    Some((stamps.i64().ok()? as u64, stamps.i64().ok()? as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchImage, BatchShape};
    use crate::wire::Writer;

    fn response() -> Vec<u8> {
        let image =
            BatchImage::encode(BatchShape { records: 3, record_bytes: 200, stamped: true }, 5).unwrap();
        let mut head = image.head.clone();
        image.stamp(&mut head, 11, 12);
        let batch = [head.as_slice(), &image.tail].concat();
        let mut writer = Writer::new();
        writer.i32(0).i32(99).i32(0).i16(0).i32(7).i32(1).string("topic").i32(3);
        for (index, copies, cut) in [(0, 2, 0), (1, 0, 0), (2, 1, 30)] {
            writer.i32(index).i16(0).i64(1000).i64(1000).i64(0).i32(index).bytes.extend(vec![
                0;
                16 * index
                    as usize
            ]);
            let mut records = batch.repeat(copies);
            records.extend_from_slice(&batch[..cut]);
            writer.i32(-1).count(records.len()).bytes.extend(records);
        }
        let length = (writer.bytes.len() - 4) as u32;
        writer.bytes[..4].copy_from_slice(&length.to_be_bytes());
        writer.bytes
    }

    fn walk(bytes: &[u8], step: usize) -> Result<Vec<Event>> {
        let mut walk = FetchWalk::new(true);
        let mut events = Vec::new();
        for chunk in bytes.chunks(step) {
            walk.feed(chunk, &mut |event| {
                events.push(event);
                Ok(())
            })?;
        }
        Ok(events)
    }

    #[test]
    fn any_split_gives_the_same_events() {
        let bytes = response().repeat(2);
        let whole = walk(&bytes, bytes.len()).unwrap();
        assert_eq!(whole.iter().filter(|event| matches!(event, Event::Batch { .. })).count(), 6);
        assert!(whole.contains(&Event::End { correlation: 99, code: 0, session: 7 }));
        let stamped = |event: &&Event| {
            matches!(event, Event::Batch { stamps: Some((11, 12)), records: 3, next_offset: 3, .. })
        };
        assert_eq!(whole.iter().filter(stamped).count(), 6);
        for step in [1, 2, 7, 61, 400] {
            assert_eq!(walk(&bytes, step).unwrap(), whole);
        }
    }

    #[test]
    fn damage_is_an_error_or_a_shorter_walk_but_never_a_panic() {
        let good = response();
        for at in 0..good.len() {
            for bit in [0x01, 0x80] {
                let mut bytes = good.clone();
                bytes[at] ^= bit;
                walk(&bytes, 64).ok();
            }
        }
        let mut bytes = good.clone();
        let last = bytes.iter().rposition(|byte| *byte != 0).unwrap() - 60;
        bytes[last] ^= 1;
        assert!(walk(&bytes, 64).is_err(), "a damaged body fails its CRC");
    }
}
