//! A corpus of hostile frames: each must be refused, or read without a panic, and none may make us allocate more
//! than a small multiple of its size. Every entry says what it tries.

use crate::wire::api_table::*;
use crate::wire::fetch::FetchRequest;
use crate::wire::header::RequestHeader;
use crate::wire::produce::{ProduceRequest, peek_single};
use crate::wire::{gate, records};

/// What a connection does with a frame, up to the point where a decoder would allocate. Whether it got there.
fn accepted(frame: &[u8]) -> bool {
    let Ok(header) = RequestHeader::parse(frame) else { return false };
    let body = &frame[header.header_size..];
    let version = header.api_version;
    match header.api_key {
        PRODUCE => {
            let _ = peek_single(body, version);
            let mut partitions = Vec::new();
            let result = ProduceRequest::decode(body, version, &mut partitions);
            assert!(partitions.capacity() <= frame.len(), "memory in proportion to a claimed count");
            for range in partitions.iter().filter_map(|partition| partition.records.clone()) {
                let _ = records::max_timestamp_record(&body[range]);
            }
            result.is_ok()
        }
        FETCH => {
            let mut request = FetchRequest::default();
            let result = request.decode_into(body, version);
            assert!(request.partitions.capacity() + request.forgotten.capacity() <= frame.len());
            result.is_ok()
        }
        key => gate::check(key, version, body).is_ok(),
    }
}

/// key, version, correlation id 1, null client id; then the body.
fn frame(api_key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut frame = [api_key.to_be_bytes(), version.to_be_bytes()].concat();
    frame.extend_from_slice(&[0, 0, 0, 1, 0xff, 0xff]);
    if is_flexible(api_key, version) {
        frame.push(0);
    }
    frame.extend_from_slice(body);
    frame
}

#[test]
fn every_frame_of_the_corpus_is_refused() {
    const HUGE: [u8; 4] = [0x7f, 0xff, 0xff, 0xff];
    const HUGE_VARINT: [u8; 5] = [0xff, 0xff, 0xff, 0xff, 0x0f];
    let produce_head = [0xff, 0xff, 0, 1, 0, 0, 0, 0];
    let produce_head_flexible = [0, 0, 1, 0, 0, 0, 0];
    let fetch_head = [0; 25];
    let corpus: &[(&str, Vec<u8>)] = &[
        ("nothing", vec![]),
        ("half a header", vec![0, 3, 0]),
        ("client id longer than the frame", vec![0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, b'x']),
        ("client id of length -2", vec![0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xfe]),
        ("client id not UTF-8", vec![0, 3, 0, 1, 0, 0, 0, 1, 0, 1, 0xc0]),
        ("four billion tagged fields in the header", [&frame(3, 8, &[])[..], &HUGE_VARINT].concat()),
        ("header tag larger than the frame", {
            let mut frame = frame(3, 9, &[]);
            frame.pop();
            [&frame[..], &[1, 0], &HUGE_VARINT].concat()
        }),
        ("produce: two billion topics", frame(PRODUCE, 3, &[&produce_head[..], &HUGE].concat())),
        (
            "produce: two billion partitions",
            frame(PRODUCE, 3, &[&produce_head[..], &[0, 0, 0, 1, 0, 1, b't'], &HUGE].concat()),
        ),
        (
            "produce: records of two billion bytes",
            frame(
                PRODUCE,
                3,
                &[&produce_head[..], &[0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 0], &HUGE].concat(),
            ),
        ),
        (
            "produce: records of length -2",
            frame(
                PRODUCE,
                3,
                &[
                    &produce_head[..],
                    &[0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe],
                ]
                .concat(),
            ),
        ),
        (
            "produce: four billion compact topics",
            frame(PRODUCE, 9, &[&produce_head_flexible[..], &HUGE_VARINT].concat()),
        ),
        ("produce: null topic array", frame(PRODUCE, 9, &[&produce_head_flexible[..], &[0]].concat())),
        ("produce: a varint that never ends", frame(PRODUCE, 9, &[0x80; 64])),
        ("fetch: two billion topics", frame(FETCH, 11, &[&fetch_head[..], &HUGE].concat())),
        ("fetch: two billion forgotten topics", {
            frame(FETCH, 11, &[&fetch_head[..], &[0, 0, 0, 0], &HUGE].concat())
        }),
        ("fetch: replica state cut short in its tag", {
            frame(FETCH, 17, &[&[0; 21][..], &[1, 1, 1, 1, 1, 2, 0, 0]].concat())
        }),
        ("metadata: two billion topics", frame(METADATA, 8, &HUGE)),
        ("metadata: topics -2", frame(METADATA, 8, &[0xff, 0xff, 0xff, 0xfe])),
        ("metadata: four billion compact topics", frame(METADATA, 12, &HUGE_VARINT)),
        ("create topics: two billion topics", frame(CREATE_TOPICS, 2, &HUGE)),
        ("create topics: nested count", {
            let topic = [0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 1];
            frame(CREATE_TOPICS, 2, &[&topic[..], &HUGE].concat())
        }),
        ("list offsets: two billion partitions", {
            frame(LIST_OFFSETS, 1, &[&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 1, b't'][..], &HUGE].concat())
        }),
        ("describe configs: two billion keys", {
            frame(DESCRIBE_CONFIGS, 1, &[&[0, 0, 0, 1, 2, 0, 1, b't'][..], &HUGE].concat())
        }),
        ("delete topics: a name longer than the frame", {
            frame(DELETE_TOPICS, 1, &[0, 0, 0, 1, 0x7f, 0xff, b't'])
        }),
        ("api versions: a name of four billion bytes", frame(API_VERSIONS, 3, &HUGE_VARINT)),
        ("an api that does not exist", frame(12_345, 0, &[0; 100])),
        ("a negative version", frame(METADATA, -1, &[0; 100])),
        ("produce in a version to come", frame(PRODUCE, 99, &[0; 100])),
        ("fetch in a version long gone", frame(FETCH, 0, &[0; 100])),
    ];
    for (what, frame) in corpus {
        assert!(!accepted(frame), "{what}");
    }
}

/// The same frames must not be refused for a mistake in this file: honest ones of the same making pass.
#[test]
fn honest_frames_of_the_same_making_pass() {
    assert!(accepted(&frame(METADATA, 8, &[0xff, 0xff, 0xff, 0xff, 1, 0, 0])));
    assert!(accepted(&frame(PRODUCE, 3, &[0xff, 0xff, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])));
    assert!(accepted(&frame(PRODUCE, 9, &[0, 0, 1, 0, 0, 0, 0, 1, 0])));
    assert!(accepted(&frame(FETCH, 11, &[&[0; 25][..], &[0; 4], &[0; 4], &[0; 2]].concat())));
    assert!(accepted(&frame(FETCH, 17, &[&[0; 21][..], &[1, 1, 1, 0]].concat())));
}

/// Frames that repeat one byte: the cheapest thing to send.
#[test]
fn frames_of_one_byte_repeated_are_survived() {
    for range in SUPPORTED {
        for version in range.min..=range.max {
            for byte in 0..=255 {
                for size_bytes in [1, 7, 64, 1_000] {
                    accepted(&frame(range.key, version, &vec![byte; size_bytes]));
                }
            }
        }
    }
}
