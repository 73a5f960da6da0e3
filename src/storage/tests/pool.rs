//! The pool's proof against stale bytes rests on file names: these tests look at the names.

use std::rc::Rc;

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
        let refused = pool.take(99, 1 << 20, 2 << 20).await.expect("a new file");
        assert_eq!(refused.0.size_bytes, 1 << 20, "offset 99 may be in the old bytes");
        let (taken, _file) = pool.take(100, 1 << 20, 2 << 20).await.expect("the pooled file");
        assert_eq!(taken.size_bytes, 2 << 20);
        for name in names(&path) {
            assert!(name.ends_with(&format!("-{}.seg", i64::MAX)), "{name} would be taken up again");
        }
        // As after a crash.
        let again = SegmentPool::open(Rc::new(DmaDisk), &path, 64 << 20).expect("pool");
        assert_eq!((again.pooled_bytes(), names(&path).len()), (0, 0));
    });
    executor.expect("an executor").join().expect("no panic");
}
