//! The pool's proof against stale bytes rests on file names: these tests look at the names.

use std::rc::Rc;

use crate::storage::segment_pool::Stale;
use crate::storage::{DmaDisk, SegmentPool};

fn names(directory: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("the pool's directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// A file kept the name under which it lay in the pool until its segment was named, while writes were already under
/// way. A process killed in between left new batches in the pool under the old, too low bound, and the file could go
/// to a segment in which those batches had the very offsets that a scan expects.
#[test]
fn a_file_that_was_taken_is_not_in_the_pool_after_a_crash() {
    let directory =
        tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/target").expect("directory");
    let path = directory.path().to_owned();
    std::fs::write(path.join("0000000007-100.seg"), vec![0; 2 << 20]).expect("a pooled file");
    let executor = glommio::LocalExecutorBuilder::default();
    let executor = executor.spawn(move || async move {
        let pool = SegmentPool::open(Rc::new(DmaDisk), &path, 64 << 20).expect("pool");
        assert_eq!(pool.pooled_bytes(), 2 << 20);
        let refused = pool.take(99, 0, 1 << 20, 2 << 20).await.expect("a new file");
        assert_eq!(refused.0.size_bytes, 1 << 20, "offset 99 may be in the old bytes");
        let (taken, _file) = pool.take(100, 0, 1 << 20, 2 << 20).await.expect("the pooled file");
        assert_eq!(taken.size_bytes, 2 << 20);
        for name in names(&path) {
            assert!(name.contains(&format!("-{}-", i64::MAX)), "{name} would be taken up again");
        }
        // As after a crash.
        let again = SegmentPool::open(Rc::new(DmaDisk), &path, 64 << 20).expect("pool");
        assert_eq!((again.pooled_bytes(), names(&path).len()), (0, 0));
    });
    executor.expect("an executor").join().expect("no panic");
}

/// A new topic begins at offset 0 and above every epoch that was in use: it must get what deleted topics left. A name
/// of the old form says nothing of epochs.
#[test]
fn a_file_goes_to_higher_offsets_or_to_a_topic_that_began_at_a_higher_epoch() {
    let directory =
        tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/target").expect("directory");
    let path = directory.path().to_owned();
    std::fs::write(path.join("0000000007-100-4.seg"), vec![0; 2 << 20]).expect("a pooled file");
    std::fs::write(path.join("0000000008-100.seg"), vec![0; 2 << 20]).expect("an old pooled file");
    std::fs::write(path.join("0000000009-100-x.seg"), b"no bound").expect("no pooled file");
    let executor = glommio::LocalExecutorBuilder::default();
    let executor = executor.spawn(move || async move {
        let pool = SegmentPool::open(Rc::new(DmaDisk), &path, 64 << 20).expect("pool");
        assert_eq!(pool.pooled_bytes(), 4 << 20);
        let take = async |base_offset, first_epoch| {
            let (file, _) = pool.take(base_offset, first_epoch, 1 << 20, 2 << 20).await.expect("a file");
            file.size_bytes == 2 << 20
        };
        assert!(!take(99, 4).await, "offset 99 of epoch 4 may be in the old bytes of both");
        assert!(take(0, 5).await);
        assert!(!take(99, i32::MAX).await, "epochs of the other one are not known");
        assert!(take(100, 0).await);
        // A file comes back under the bounds of its last life, cut to its batches.
        let segment = path.join("segment");
        std::fs::write(&segment, vec![7; 3 << 20]).expect("a segment");
        let stale = Stale { end: 30, epoch: 6 };
        pool.give_back(segment, 2 << 20, stale).await.expect("taken back");
        let name = names(&path).into_iter().find(|name| name.ends_with("-30-6.seg")).expect("its name");
        assert_eq!(std::fs::metadata(path.join(name)).expect("the file").len(), 2 << 20);
        assert!(!take(29, 6).await);
        assert!(take(0, 7).await);
    });
    executor.expect("an executor").join().expect("no panic");
}
