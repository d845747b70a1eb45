//! What only shows from outside the process: how commands end, and what they leave behind.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use sluice_consumer::store::sqlite::{SqliteOptions, SqliteStore};
use sluice_consumer::store::{DeadLetter, Position, Reason, Store, StreamKey, TableName, WriteBatch};

const PIPELINE: &str = "
apiVersion: sluice.dev/v1alpha1
kind: TracePipeline
metadata: { name: demo }
spec:
  source: { kafka: { bootstrapServers: '127.0.0.1:1', topic: spans, consumerGroup: sluice } }
  sink: { sqlite: { claimName: demo } }
  rateLimitQPS: 5000
  replicas: 1
";

/// `sluice` with these arguments, in a folder that holds `pipeline.yaml`.
fn sluice(folder: &Path, arguments: &[&str]) -> Command {
    std::fs::write(folder.join("pipeline.yaml"), PIPELINE).expect("a pipeline file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    command
}

/// A port on which nobody listens.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_command_whose_reader_is_gone_ends_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = sluice(folder.path(), &["check", "-f", "pipeline.yaml"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(141), String::new()));
}

#[test]
fn load_for_a_server_that_takes_none_of_it_ends_with_the_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1 << 16]);
            let _ =
                stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let output = sluice(folder.path(), &["loadgen", "--http", &url, "--rate", "100", "--duration", "60"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(30), "{}", stderr(&output));
    assert!(stderr(&output).contains("404 Not Found"), "{}", stderr(&output));
}

#[test]
fn a_look_into_a_database_that_is_not_there_creates_none() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["list", "redrive --all --dry-run", "purge --all --dry-run"] {
        let arguments: Vec<_> = ["dead-letters"].into_iter().chain(command.split(' ')).collect();
        let output =
            sluice(folder.path(), &[&arguments[..], &["-f", "pipeline.yaml"]].concat()).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("sluice-data/demo/sluice.db: no consumer has started on it yet"), "{text}");
        assert!(!folder.path().join("sluice-data").exists());
    }
}

#[test]
fn an_empty_database_is_said_to_have_seen_no_consumer() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("sluice-data/demo")).unwrap();
    std::fs::write(folder.path().join("sluice-data/demo/sluice.db"), "").unwrap();
    let output = sluice(folder.path(), &["dead-letters", "list", "-f", "pipeline.yaml"]).output().unwrap();
    let text = stderr(&output);
    assert!(
        text.contains("cannot read the dead letters: no consumer has started on this database yet"),
        "{text}"
    );
}

/// Stores a dead letter beside `table`, as a replay into it does.
async fn store_letter(database: &Path, table: &str, id: i64) {
    let options = SqliteOptions {
        path: database.to_owned(),
        table: TableName::new(table).expect("a name"),
        manage_schema: true,
    };
    let store = SqliteStore::new(options);
    store.prepare().await.expect("tables");
    let key = StreamKey { cluster_id: "c".into(), group: "g".into(), topic: "spans".into(), partition: 0 };
    store.create_streams(&[(key.clone(), 0)]).await.expect("a stream");
    let claim = store.claim(&key, "test").await.expect("a claim");
    let letter = DeadLetter {
        id,
        topic: "spans",
        partition: 0,
        offset: 0,
        span: None,
        timestamp: None,
        reason: Reason::Undecodable,
        detail: "broken",
        key: None,
        headers: b"[]",
        bytes: b"{",
        sealed: false,
    };
    let batch = WriteBatch {
        stream: claim.stream,
        epoch: claim.epoch,
        from: claim.position,
        to: Position { next_offset: 1, last_id: id },
        fingerprint: None,
        rows: &[],
        dead_letters: &[letter],
        queue_copies: false,
    };
    store.write(&batch).await.expect("a letter");
    store.close().await;
}

#[tokio::test]
async fn letters_of_a_replay_into_another_table_are_seen_and_removed_and_not_redriven() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("sluice-data/demo/sluice.db");
    std::fs::create_dir_all(database.parent().unwrap()).unwrap();
    store_letter(&database, "connectivity_trace", 7).await;
    store_letter(&database, "copy", 8).await;
    let run = |command: &str| {
        let arguments: Vec<_> = ["dead-letters"].into_iter().chain(command.split(' ')).collect();
        let output =
            sluice(folder.path(), &[&arguments[..], &["-f", "pipeline.yaml"]].concat()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output))
    };
    let listed = |command: &str| {
        let (_, stdout, stderr) = run(command);
        let list: serde_json::Value = serde_json::from_str(&stdout).expect(&stderr);
        let letters = list["letters"].as_array().expect("a list");
        letters.iter().filter_map(|letter| letter["id"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(listed("list -o json"), ["7"]);
    assert_eq!(listed("list --table connectivity_trace -o json"), ["7"]);
    assert_eq!(listed("list --table copy -o json"), ["8"]);
    assert_eq!(run("show 7 --table copy").0, Some(1));
    assert!(run("show 8 --table copy").1.contains("Undecodable: broken"));
    let (code, _, text) = run("redrive --table copy --all");
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("no consumer stores into copy") && text.contains("sluice replay --table copy"),
        "{text}"
    );
    let (code, done, text) = run("redrive --table connectivity_trace --all");
    assert!(code == Some(0) && done.contains("1 marked"), "{done}{text}");
    assert_eq!(run("purge --table copy --all --yes").1, "1 removed\n");
    assert_eq!((listed("list --table copy -o json"), listed("list -o json")), (vec![], vec!["7".to_owned()]));
    assert!(run("list --table copy").2.contains("no dead letters of copy"));
}

#[test]
fn a_folder_without_a_pipeline_file_asks_for_the_one_that_it_was_started_with() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::write(folder.path().join("data/sluice.db"), "").unwrap();
    let output = sluice(folder.path(), &["dead-letters", "list", "--local", "data"]).output().unwrap();
    let text = stderr(&output);
    assert!(text.contains("there is no data/pipeline.yaml") && text.contains("-f"), "{text}");
}

#[test]
fn an_address_that_cannot_be_listened_on_comes_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (command, address, remedy) in [
        ("consume", address.as_str(), "--admin 127.0.0.1:0 takes one that is free"),
        ("local", address.as_str(), "--admin 127.0.0.1:0 takes one that is free"),
        // Of the block that is set aside for documentation (RFC 5737).
        ("consume", "192.0.2.1:9464", "this machine does not have that address"),
    ] {
        let arguments = [command, "-f", "pipeline.yaml", "--admin", address];
        let output = sluice(folder.path(), &arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(remedy), "{}", stderr(&output));
    }
}

#[test]
fn a_mistake_in_a_file_is_no_backtrace() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = sluice(folder.path(), &["consume", "-f", "absent.yaml"]);
    let output = command.env("RUST_BACKTRACE", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "Error: cannot read absent.yaml: No such file or directory (os error 2)\n");
}

#[test]
fn load_that_nobody_takes_ends_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("127.0.0.1:{}", free_port());
    let began = Instant::now();
    let output = sluice(folder.path(), &["loadgen", "--http", &format!("http://{nobody}")]).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(15), "{text}");
    assert!(text.contains(" spans are under way and 0 were taken so far: "), "{text}");
    assert!(text.contains(&format!("nobody takes the spans at http://{nobody}: ")), "{text}");
    assert!(text.contains("refused") && text.contains("sluice local"), "{text}");
}

#[test]
fn messages_that_no_memory_would_hold_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let large = ["--spans-per-message", "100000", "--body-bytes", "8000000"];
    let arguments = [&["loadgen", "--http", "http://127.0.0.1:1"], &large[..]].concat();
    let text = stderr(&sluice(folder.path(), &arguments).output().unwrap());
    assert!(text.contains("lower --spans-per-message or --body-bytes"), "{text}");
}

#[test]
fn load_into_kafka_that_is_not_there_ends_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("127.0.0.1:{}", free_port());
    let arguments = ["loadgen", "--topic", "spans", "--bootstrap-servers", &nobody];
    let began = Instant::now();
    let output = sluice(folder.path(), &arguments).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(25), "{text}");
    assert!(text.contains(&format!("nobody takes the spans at {nobody}: ")), "{text}");
    assert!(text.contains("refused") && text.contains("--bootstrap-servers"), "{text}");
}

#[test]
fn load_into_kafka_that_is_not_there_can_be_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("127.0.0.1:{}", free_port());
    let arguments = ["loadgen", "--topic", "spans", "--spans", "100", "--bootstrap-servers", &nobody];
    let mut child = sluice(folder.path(), &arguments).stderr(Stdio::piped()).spawn().unwrap();
    // The first line comes when it waits for answers.
    let mut log = BufReader::new(child.stderr.take().unwrap());
    log.read_line(&mut String::new()).unwrap();
    let stopped = Instant::now();
    let interrupt = format!("kill -INT {}", child.id());
    assert!(Command::new("sh").args(["-c", &interrupt]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(stopped.elapsed() < Duration::from_secs(15), "{:?}", stopped.elapsed());
}

#[test]
fn mistakes_on_the_command_line_say_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let replay = ["replay", "-f", "pipeline.yaml", "--dry-run", "--from", "2h", "--to", "3h"];
    for (arguments, expected) in [
        (&["loadgen"][..], "<--http <URL>|--topic <TOPIC>>"),
        (&["keys", "status"], "<--file <FILE>|--local <DIR>>"),
        (&replay, "--from lies behind --to"),
        (&["consume", "-f", "pipeline.yaml", "--admin", "localhost:1"], "expected IP:PORT, such as"),
        (&["dead-letters", "purge", "-f", "pipeline.yaml", "--yes"], "expected ids, filters or --all"),
        (&["dead-letters", "purge", "-f", "pipeline.yaml", "--all"], "say --yes"),
        (&["dead-letters", "redrive", "-f", "pipeline.yaml"], "expected ids, filters or --all"),
        (&["loadgen", "--http", "http://127.0.0.1:1", "--partition", "0"], "cannot be used with"),
        (&["loadgen", "--http", "http://127.0.0.1:1", "--property", "a=b"], "cannot be used with"),
        (&["loadgen", "--http", "http://127.0.0.1:1", "--bootstrap-servers", "k:1"], "cannot be used with"),
        (
            &["dead-letters", "list", "-f", "pipeline.yaml", "--table", "a`b"],
            "expected a letter or underscore",
        ),
        (&["consume", "-f", "pipeline.yaml", "--bodies-per-data-key", "0"], "0 is not in 1.."),
    ] {
        let output = sluice(folder.path(), arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
}

#[test]
fn a_file_where_a_folder_belongs_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["local", "--data-dir", "pipeline.yaml"][..],
        &["consume", "-f", "pipeline.yaml", "--data-dir", "pipeline.yaml", "--admin", "127.0.0.1:0"],
    ] {
        let text = stderr(&sluice(folder.path(), arguments).output().unwrap());
        assert!(text.contains("expected a folder, and pipeline.yaml is a file"), "{text}");
    }
}

#[test]
fn a_log_for_people_that_goes_to_a_file_has_no_colours() {
    let folder = tempfile::tempdir().unwrap();
    // Ends by itself, after a line or two.
    let arguments =
        ["consume", "-f", "pipeline.yaml", "--data-dir", "pipeline.yaml", "--admin", "127.0.0.1:0"];
    let arguments = [&arguments[..], &["--log-format", "human"]].concat();
    // Set and empty is as good as not set.
    let text = stderr(&sluice(folder.path(), &arguments).env("RUST_LOG", "").output().unwrap());
    assert!(text.contains("INFO") && !text.contains('\u{1b}'), "{text:?}");
}
