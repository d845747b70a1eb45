//! What fuzzing has found worth keeping is still handled. `tests/fuzz` goes on from there.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;

use sluice_fuzz::{TARGETS, Target};

#[test]
fn every_target_handles_its_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in TARGETS {
        let files: Vec<_> =
            std::fs::read_dir(root.join(name)).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(!files.is_empty(), "nothing is kept for {name}");
        for file in files {
            println!("{}", file.display());
            target.check(&std::fs::read(file).unwrap());
        }
    }
    let folders = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name());
    for folder in folders {
        assert!(Target::named(folder.to_str().unwrap()).is_some(), "a corpus of nothing: {folder:?}");
    }
}

#[test]
fn the_script_names_every_target_in_this_order() {
    let script = include_str!("../../../tests/fuzz");
    let (_, names) = script.split_once("\nall=(").unwrap();
    let (names, _) = names.split_once(')').unwrap();
    assert_eq!(names.split_whitespace().collect::<Vec<_>>(), TARGETS.map(|(name, _)| name));
}

#[test]
fn what_producers_send_is_handled_by_every_decoder() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let folders = ["opentelemetry-collector", "zipkin-sender-kafka"];
    for file in folders.iter().flat_map(|folder| std::fs::read_dir(fixtures.join(folder)).unwrap()) {
        let data = std::fs::read(file.unwrap().path()).unwrap();
        for (_, target) in TARGETS {
            target.check(&data);
        }
    }
}
