//! House rules that a machine can check: paths named in the docs exist, modules import only downwards, files have
//! a header and a bounded size, `unsafe` and the runtime stay behind their seams.
//!
//! Owner: nobody. Invariants: every rule carries its reason; an exception is listed here with its file, and an
//! exception that is no longer needed fails the test, so that the lists can only shrink.
//! It must not need the network, a built binary or anything outside the checkout.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest file: one subject that a reader can hold in the head.
const FILE_LINES_MAX: usize = 800;
/// Longest line, in characters, not counting what is inside string literals (they cannot always be broken).
const LINE_CHARS_MAX: usize = 120;

/// Who may import whom: the data flows downwards, and a module can be read without those above it.
const IMPORTS: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("sync", &[]),
    ("fs", &[]),
    ("maps", &[]),
    ("rt", &["sync"]),
    ("clock", &["fs", "limits", "rt"]),
    ("memory", &[]),
    ("metrics", &[]),
    ("admin", &["limits", "memory", "metrics", "shard", "wire"]),
    ("wire", &[]),
    ("config", &[]),
    ("catalog", &["fs"]),
    ("quota", &["catalog", "limits"]),
    ("preflight", &["config", "limits"]),
    // What fuzzers run: looks at everything, and nothing looks at it (it is not compiled into the broker).
    (
        "fuzzing",
        &["api", "catalog", "config", "coordinator", "net", "rt", "shard", "storage", "sync", "wire"],
    ),
    ("storage", &["clock", "fs", "limits", "maps", "metrics", "rt", "sync", "wire"]),
    ("partition", &["config", "limits", "metrics", "rt", "storage", "sync", "wire"]),
    (
        "shard",
        &[
            "catalog",
            "clock",
            "config",
            "fs",
            "limits",
            "maps",
            "partition",
            "quota",
            "rt",
            "storage",
            "sync",
            "wire",
        ],
    ),
    (
        "coordinator",
        &["catalog", "config", "limits", "maps", "partition", "rt", "shard", "storage", "sync", "wire"],
    ),
    (
        "api",
        &[
            "catalog",
            "config",
            "coordinator",
            "limits",
            "metrics",
            "partition",
            "quota",
            "rt",
            "shard",
            "storage",
            "sync",
            "wire",
        ],
    ),
    ("net", &["api", "limits", "metrics", "rt", "shard", "storage", "sync"]),
    (
        "cli",
        &[
            "admin",
            "catalog",
            "config",
            "coordinator",
            "limits",
            "metrics",
            "net",
            "preflight",
            "rt",
            "shard",
            "wire",
        ],
    ),
];

/// Imports against the direction or narrower than the table: only these names may be used.
///
/// `api` and `shard` look up into `net` for types that are frames and replies rather than sockets; a module of
/// their own below both would end the cycle. Storage may know record batches, and nothing else of the protocol.
const ONLY_THESE: &[(&str, &str, &[&str])] = &[
    ("api", "net", &["Frame", "FrameBuffer", "Held", "Outgoing", "Payload", "Reply"]),
    ("shard", "net", &["AnswerMemory", "FramePool"]),
    ("shard", "coordinator", &["Coordinators"]),
    ("storage", "wire", &["batch_filter", "control_batch", "record_batch", "records"]),
    ("net", "storage", &["Landing", "Slice"]),
    ("cli", "storage", &["probe_disk"]),
];

/// Files that may contain `unsafe`: few, so that they can be audited.
const UNSAFE_ALLOWED: &[&str] = &[
    "bench-harness/src/librdkafka/ffi.rs",
    "bench-harness/src/ring.rs",
    "bench-harness/src/sys.rs",
    "src/api/dispatch.rs",
    "src/cli/serve.rs",
    "src/config/machine.rs",
    "src/fuzzing/memory.rs",
    "src/memory/blocks.rs",
    "src/memory/mod.rs",
    "src/metrics/clock.rs",
    "src/net/connection.rs",
    "src/net/listener.rs",
    "src/net/receive.rs",
    "src/net/send.rs",
    "src/preflight.rs",
    "src/shard/lease.rs",
    "src/storage/buffer.rs",
    "src/storage/cleaner.rs",
    "src/storage/disk_dma.rs",
];

/// Files that may name the runtime's I/O: a simulated disk must be able to take its place.
const GLOMMIO_IO_ALLOWED: &[&str] = &[
    "src/rt.rs",
    "src/storage/buffer.rs",
    "src/storage/disk.rs",
    "src/storage/disk_dma.rs",
    "src/storage/segment_writer.rs",
];

/// Files that may name the runtime at all: another executor must be able to take its place.
const GLOMMIO_ALLOWED: &[&str] = &[
    "src/cli/serve.rs",
    "src/fuzzing/live.rs",
    "src/net/connection.rs",
    "src/net/listener.rs",
    "src/rt.rs",
    "src/storage/buffer.rs",
    "src/storage/disk.rs",
    "src/storage/disk_dma.rs",
    "src/storage/segment_writer.rs",
];

/// Files that still have a line over the limit.
const LONG_LINES_KNOWN: &[&str] = &["src/wire/tests/fetch.rs", "src/wire/tests/produce.rs"];

/// Folders that are made, not written.
const NOT_SOURCES: &[&str] = &[
    "target",
    ".tools",
    ".git",
    "data",
    "node_modules",
    "__pycache__",
    "results",
    "corpus",
    "artifacts",
    "found",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files of the checkout below `folder` whose names `wanted` accepts, as paths relative to the root, sorted.
fn files_below(folder: &str, wanted: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(next) = folders.pop() {
        for entry in
            fs::read_dir(&next).expect("a folder of the checkout").map(|entry| entry.expect("an entry"))
        {
            let name = entry.file_name().into_string().expect("names in the checkout are UTF-8");
            let path = entry.path();
            if entry.file_type().expect("a type").is_dir() {
                if !NOT_SOURCES.contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if wanted(&name) && !NOT_SOURCES.contains(&name.as_str()) {
                found.push(relative(&path));
            }
        }
    }
    found.sort();
    found
}

/// Whether a source file is only compiled for tests, which may reach across layers.
fn is_test(file: &str) -> bool {
    file.starts_with("src/") && (file.contains("/tests/") || file.starts_with("src/sim/"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("below the root").to_str().expect("UTF-8").to_owned()
}

fn rust_files(folders: &[&str]) -> Vec<String> {
    folders.iter().flat_map(|folder| files_below(folder, &|name| name.ends_with(".rs"))).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn assert_none(problems: &[String], rule: &str) {
    assert!(problems.is_empty(), "{rule}\n  {}\n", problems.join("\n  "));
}

/// Compares the files that break a rule with the list of those that may.
fn assert_same(found: &BTreeSet<String>, allowed: &[&str], rule: &str) {
    let allowed: BTreeSet<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
    let new: Vec<_> = found.difference(&allowed).cloned().collect();
    let gone: Vec<_> = allowed.difference(found).cloned().collect();
    assert!(new.is_empty(), "{rule}: {new:?} must not");
    assert!(gone.is_empty(), "{rule}: {gone:?} no longer do; take them off the list in tests/tidy.rs");
}

/// A line without comment and without the contents of string literals (good enough for rustfmt's output).
fn code_of(line: &str) -> String {
    let mut code = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    let mut in_string = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => {
                chars.next();
            }
            '"' => {
                in_string = !in_string;
                code.push(c);
            }
            '/' if !in_string && chars.peek() == Some(&'/') => return code,
            _ if in_string => {}
            _ => code.push(c),
        }
    }
    code
}

#[test]
fn paths_in_the_docs_exist() {
    let mut problems = Vec::new();
    let mut documents = files_below("docs", &|name| name.ends_with(".md"));
    documents.extend(["README.md", "CHANGELOG.md", "SECURITY.md"].map(str::to_owned));
    for document in documents {
        let text = read(&document);
        let mut fenced = false;
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
                continue;
            }
            // Odd parts of a line split at backticks are code; in a fenced block only scripts are looked at.
            let named: Vec<&str> = if fenced {
                line.split_whitespace().filter(|word| word.starts_with("./scripts/")).collect()
            } else {
                let spans = line.split('`').skip(1).step_by(2);
                spans.filter_map(|span| span.split_whitespace().next()).collect()
            };
            for path in named.into_iter().filter_map(repository_path) {
                if !root().join(&path).exists() {
                    problems.push(format!("{document}:{}: {path}", number + 1));
                }
            }
        }
    }
    assert_none(&problems, "a reader who looks for these finds nothing:");
}

/// The path that a piece of code in a document names, if it is one of this repository.
fn repository_path(word: &str) -> Option<String> {
    const TOPS: &[&str] =
        &["src/", "docs/", "scripts/", "tests/", "bench-harness/", "results/", "fuzz/", ".ci/", "Cargo.toml"];
    let path = word.strip_prefix("./").unwrap_or(word).trim_end_matches([',', '.', ':', ';']);
    let is_pattern = path.contains(['<', '>', '*', '{', '$', '\u{2026}']);
    // Runs come and go; the folder itself is made by the first one.
    let is_runs = path == "results/";
    (TOPS.iter().any(|top| path.starts_with(top)) && !is_pattern && !is_runs).then(|| path.to_owned())
}

#[test]
fn links_in_the_docs_lead_somewhere() {
    let mut problems = Vec::new();
    let mut documents = files_below("docs", &|name| name.ends_with(".md"));
    documents.extend(["README.md", "CHANGELOG.md", "SECURITY.md"].map(str::to_owned));
    for document in documents {
        let folder = PathBuf::from(&document).parent().map_or_else(PathBuf::new, Path::to_owned);
        for target in read(&document).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let outside = file.is_empty() || file.contains("://");
            if !outside && !root().join(&folder).join(file).exists() {
                problems.push(format!("{document}: {target}"));
            }
        }
    }
    assert_none(&problems, "these links are dead:");
}

/// The names that a file takes from `crate::<module>`: `None` for the module itself or everything in it.
fn imported_names(code: &str, module: &str) -> Vec<Option<String>> {
    let prefix = format!("crate::{module}");
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut names = Vec::new();
    for rest in code.split(&prefix).skip(1) {
        let Some(rest) = rest.strip_prefix("::") else {
            if !rest.starts_with(is_name) {
                names.push(None);
            }
            continue;
        };
        let first = |item: &str| -> Option<String> {
            let name: String = item.trim().chars().take_while(|c| is_name(*c)).collect();
            (!name.is_empty()).then_some(name)
        };
        match rest.strip_prefix('{').and_then(|list| list.split('}').next()) {
            Some(list) => names.extend(list.split(',').filter(|item| !item.trim().is_empty()).map(first)),
            None => names.push(first(rest)),
        }
    }
    names
}

#[test]
fn modules_import_only_downwards() {
    let mut problems = Vec::new();
    for (module, may) in IMPORTS {
        let files = match root().join("src").join(module).is_dir() {
            true => rust_files(&[&format!("src/{module}")]),
            false => vec![format!("src/{module}.rs")],
        };
        for file in files.into_iter().filter(|file| !is_test(file)) {
            let code: String = read(&file).lines().map(|line| code_of(line) + "\n").collect();
            for (other, _) in IMPORTS.iter().filter(|(other, _)| other != module) {
                let narrow = ONLY_THESE.iter().find(|(from, to, _)| (from, to) == (module, other));
                for name in imported_names(&code, other) {
                    let allowed = match narrow {
                        Some((_, _, names)) => name.as_deref().is_some_and(|name| names.contains(&name)),
                        None => may.contains(other),
                    };
                    if !allowed {
                        let name = name.unwrap_or_else(|| "*".to_owned());
                        problems.push(format!("{file} imports crate::{other}::{name}"));
                    }
                }
            }
        }
    }
    assert_none(&problems, "these imports go against the layers (docs/ARCHITECTURE.md):");
}

#[test]
fn every_module_has_an_import_rule() {
    let text = read("src/lib.rs");
    let modules = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    for module in modules {
        assert!(IMPORTS.iter().any(|(known, _)| *known == module), "src/lib.rs: no rule for `{module}`");
    }
}

#[test]
fn files_have_a_header_and_a_bounded_size() {
    let mut problems = Vec::new();
    let mut long_lines = BTreeSet::new();
    for file in rust_files(&["src", "bench-harness/src", "tests"]) {
        let text = read(&file);
        if !text.starts_with("//!") {
            problems.push(format!("{file}: begins without //! (purpose, owner, invariants)"));
        }
        let count = text.lines().count();
        if count > FILE_LINES_MAX {
            problems.push(format!("{file}: {count} lines, at most {FILE_LINES_MAX}"));
        }
        let too_long = |line: &str| {
            line.chars().count() > LINE_CHARS_MAX
                && (line.trim_start().starts_with("//") || code_of(line).chars().count() > LINE_CHARS_MAX)
        };
        if text.lines().any(too_long) {
            long_lines.insert(file);
        }
    }
    assert_none(&problems, "files a newcomer cannot hold in the head:");
    assert_same(&long_lines, LONG_LINES_KNOWN, "lines over 120 characters");
}

#[test]
fn nothing_is_left_for_later() {
    let words = ["todo!", "unimplemented!", "TODO", "FIXME"];
    let mut problems = Vec::new();
    for file in rust_files(&["src", "bench-harness/src"]) {
        for (number, line) in read(&file).lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                problems.push(format!("{file}:{}: {word}", number + 1));
            }
        }
    }
    assert_none(&problems, "a stub behind an advertised feature is a lie:");
}

/// Files in which `wanted` holds for a line of code.
fn files_with(folders: &[&str], wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let matches = |file: &String| !is_test(file) && read(file).lines().any(|line| wanted(&code_of(line)));
    rust_files(folders).into_iter().filter(matches).collect()
}

#[test]
fn unsafe_stays_in_few_files() {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let found =
        files_with(&["src", "bench-harness/src"], |code| code.split(|c| !is_word(c)).any(|w| w == "unsafe"));
    assert_same(&found, UNSAFE_ALLOWED, "files with `unsafe`");
}

#[test]
fn the_runtime_stays_behind_its_seams() {
    let io = files_with(&["src"], |code| code.contains("glommio::io"));
    assert_same(&io, GLOMMIO_IO_ALLOWED, "files that name glommio::io");
    let any = files_with(&["src"], |code| code.contains("glommio::"));
    assert_same(&any, GLOMMIO_ALLOWED, "files that name glommio");
}

#[test]
fn no_registry_host_and_no_machine_path_is_committed() {
    // Put together here, so that this file does not name them.
    let hosts = [
        ["static", "crates.io"],
        ["index", "crates.io"],
        ["registry", "npmjs.org"],
        ["repo1", "maven.org"],
        ["repo", "maven.apache.org"],
        ["files", "pythonhosted.org"],
        ["proxy", "golang.org"],
        ["deb", "debian.org"],
    ]
    .map(|parts| parts.join("."));
    let places = ["work", "home", "root", "Users"].map(|name| format!("/{name}/"));
    let mut problems = Vec::new();
    for file in files_below("", &|name| !name.ends_with(".hlog") && name != "Cargo.lock") {
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        for (number, line) in text.lines().enumerate() {
            // Only a path's beginning counts: `bench-harness/root/` would be somebody's own folder.
            let is_start =
                |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~$}".contains(c));
            let path =
                places.iter().find(|place| line.match_indices(place.as_str()).any(|(at, _)| is_start(at)));
            if let Some(word) = hosts.iter().find(|host| line.contains(host.as_str())).or(path) {
                problems.push(format!("{file}:{}: {word}", number + 1));
            }
        }
    }
    assert_none(&problems, "these hold only on one machine, or name a registry that a mirror replaces:");
}

#[test]
fn the_checker_reads_rust_as_meant() {
    assert_eq!(code_of(r#"let a = "x // \" y"; // z"#), r#"let a = ""; "#);
    let names = imported_names(
        "use crate::net::{Frame, Reply};\ncrate::net::listen();\nuse crate::network::X;",
        "net",
    );
    assert_eq!(names, [Some("Frame".to_owned()), Some("Reply".to_owned()), Some("listen".to_owned())]);
    assert_eq!(imported_names("use crate::net;", "net"), [None]);
    assert_eq!(repository_path("./scripts/run"), Some("scripts/run".to_owned()));
    assert_eq!(repository_path("results/<run>/"), None);
}
