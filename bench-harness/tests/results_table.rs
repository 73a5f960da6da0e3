//! README's table of results is what the committed runs say: nobody types a figure.

use std::process::Command;

#[test]
fn the_table_in_the_readme_is_the_one_the_results_give() {
    let root = format!("{}/..", env!("CARGO_MANIFEST_DIR"));
    let run = Command::new(env!("CARGO_BIN_EXE_ringlog-bench"))
        .args(["results-table", "results", "--check", "README.md"])
        .current_dir(root)
        .output()
        .expect("the harness runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
