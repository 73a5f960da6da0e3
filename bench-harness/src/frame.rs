//! Produce requests encoded once (v7), and their acknowledgements.
//!
//! Owner: one connection owns one set of templates. A template is a chain of small own pieces (request
//! header, partition headers, batch heads) with the shared batch tail behind each; only the correlation id
//! and, when stamped, the batch heads are patched between sends.
//!
//! Invariant: a template is patched only while none of its bytes are on their way out. Must not: do I/O.

use std::io::IoSlice;

use crate::batch::BatchImage;
use crate::error::{BenchError, Result, protocol};
use crate::limits::{PARTITIONS_PER_REQUEST_MAX, REQUEST_BYTES_MAX, SEND_SLICES_MAX};
use crate::wire::{Reader, Writer};

/// Produce v7: the last version whose reply fits ours and whose encoding is fixed-width; Kafka 4 takes 3 to 13.
pub(crate) const PRODUCE_VERSION: i16 = 7;
const CORRELATION_AT: usize = 8;
/// The client id of every request.
pub(crate) const CLIENT_ID: &str = "ringlog-bench";

/// One encoded produce request.
#[derive(Debug)]
pub(crate) struct RequestTemplate {
    small: Vec<u8>,
    /// End of each small piece; a tail follows each.
    piece_ends: Vec<usize>,
    /// Where each batch head starts in `small`; it ends at the end of its piece.
    head_starts: Vec<usize>,
    image: BatchImage,
    length: usize,
}

impl RequestTemplate {
    /// Encodes a request that sends `image` to each of the partitions.
    ///
    /// # Errors
    /// If the request would exceed the bounds of `limits`.
    pub(crate) fn encode(topic: &str, partitions: &[i32], acks: i16, image: &BatchImage) -> Result<Self> {
        let batch_bytes = image.len();
        let total = partitions.len().saturating_mul(batch_bytes + 8);
        if partitions.is_empty() || partitions.len() > PARTITIONS_PER_REQUEST_MAX || total > REQUEST_BYTES_MAX
        {
            return Err(BenchError::Usage(format!(
                "a request of {} partitions and {total} bytes is out of bounds",
                partitions.len()
            )));
        }
        let mut writer = Writer::new();
        writer.i32(0).i16(0).i16(PRODUCE_VERSION).i32(0).string(CLIENT_ID);
        writer.null_string().i16(acks).i32(30_000).i32(1).string(topic).count(partitions.len());
        let mut piece_ends = Vec::with_capacity(partitions.len());
        let mut head_starts = Vec::with_capacity(partitions.len());
        for partition in partitions {
            writer.i32(*partition).count(batch_bytes);
            head_starts.push(writer.bytes.len());
            writer.bytes.extend_from_slice(&image.head);
            piece_ends.push(writer.bytes.len());
        }
        let mut small = writer.bytes;
        let length = small.len() + partitions.len() * image.tail.len();
        small[..4].copy_from_slice(&((length - 4) as u32).to_be_bytes());
        Ok(Self { small, piece_ends, head_starts, image: image.clone(), length })
    }

    /// Bytes on the wire, length field included.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Records in the request.
    pub(crate) fn records(&self) -> u64 {
        u64::from(self.image.records) * self.piece_ends.len() as u64
    }

    /// Bytes of record batches in the request.
    pub(crate) fn batch_bytes(&self) -> u64 {
        (self.image.len() * self.piece_ends.len()) as u64
    }

    /// Makes the template ready for its next send.
    pub(crate) fn patch(&mut self, correlation: i32, intended_ns: u64, sent_ns: u64) {
        self.small[CORRELATION_AT..CORRELATION_AT + 4].copy_from_slice(&correlation.to_be_bytes());
        if self.image.stamped() {
            for (start, end) in self.head_starts.iter().zip(&self.piece_ends) {
                self.image.stamp(&mut self.small[*start..*end], intended_ns, sent_ns);
            }
        }
    }

    /// The slices from byte `offset` on, as many as one vectored send takes; returns how many were filled.
    pub(crate) fn slices<'a>(&'a self, offset: usize, out: &mut [IoSlice<'a>; SEND_SLICES_MAX]) -> usize {
        let pair_tail = self.image.tail.len();
        let mut position = 0;
        let mut start = 0;
        let mut count = 0;
        for &end in &self.piece_ends {
            for part in [&self.small[start..end], &self.image.tail[..pair_tail]] {
                let skip = offset.saturating_sub(position).min(part.len());
                if skip < part.len() && count < out.len() {
                    out[count] = IoSlice::new(&part[skip..]);
                    count += 1;
                }
                position += part.len();
            }
            start = end;
        }
        count
    }
}

/// Decodes a produce reply (v7, behind the correlation id) and fails on the first error code in it.
pub(crate) fn check_produce_reply(body: &[u8], records_base: &mut i64) -> Result<()> {
    let mut reader = Reader::new(body);
    for _ in 0..reader.count(6)? {
        let topic = reader.string()?.unwrap_or_default();
        for _ in 0..reader.count(30)? {
            let partition = reader.i32()?;
            let code = reader.i16()?;
            if code != 0 {
                return Err(BenchError::Endpoint { what: format!("produce to {topic}-{partition}"), code });
            }
            *records_base = reader.i64()?;
            reader.take(16)?;
        }
    }
    reader.i32()?; // throttle time
    if reader.remaining() != 0 {
        return Err(protocol(format!("{} bytes behind a produce reply", reader.remaining())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchShape;

    fn flatten(template: &RequestTemplate, mut offset: usize, step: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while offset < template.len() {
            let mut slices = [IoSlice::new(&[]); SEND_SLICES_MAX];
            let count = template.slices(offset, &mut slices);
            let flat: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).take(step).collect();
            offset += flat.len();
            bytes.extend(flat);
        }
        bytes
    }

    #[test]
    fn encoded_requests_decode_at_any_split() {
        let shape = BatchShape { records: 5, record_bytes: 50, stamped: true };
        let image = BatchImage::encode(shape, 1).unwrap();
        let partitions: Vec<i32> = (0..70).collect();
        let mut template = RequestTemplate::encode("a-topic", &partitions, -1, &image).unwrap();
        template.patch(4711, 8, 9);
        let bytes = flatten(&template, 0, usize::MAX);
        assert_eq!(bytes, flatten(&template, 0, 17));
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.i32().unwrap() as usize, bytes.len() - 4);
        assert_eq!((reader.i16().unwrap(), reader.i16().unwrap()), (0, PRODUCE_VERSION));
        assert_eq!(reader.i32().unwrap(), 4711);
        assert_eq!(reader.string().unwrap(), Some(CLIENT_ID));
        assert_eq!(reader.string().unwrap(), None);
        assert_eq!(reader.i16().unwrap(), -1);
        reader.i32().unwrap();
        assert_eq!(reader.count(1).unwrap(), 1);
        assert_eq!(reader.string().unwrap(), Some("a-topic"));
        assert_eq!(reader.count(8).unwrap(), partitions.len());
        for partition in partitions {
            assert_eq!(reader.i32().unwrap(), partition);
            let length = reader.i32().unwrap() as usize;
            let batch = reader.take(length).unwrap();
            assert_eq!(crc32c::crc32c(&batch[21..]).to_be_bytes(), batch[17..21]);
        }
        assert_eq!(reader.remaining(), 0);
    }

    #[test]
    fn replies_are_checked() {
        let mut writer = Writer::new();
        writer.i32(1).string("t").i32(1).i32(0).i16(0).i64(42).i64(-1).i64(0).i32(0);
        let mut base = 0;
        check_produce_reply(&writer.bytes, &mut base).unwrap();
        assert_eq!(base, 42);
        let good = writer.bytes.clone();
        writer.bytes[16] = 6; // low byte of the error code
        assert!(matches!(
            check_produce_reply(&writer.bytes, &mut base),
            Err(BenchError::Endpoint { code: 6, .. })
        ));
        for cut in 0..good.len() {
            assert!(check_produce_reply(&good[..cut], &mut base).is_err());
        }
    }
}
