use std::path::Path;
use std::time::Duration;

use super::*;
use crate::source::ReadEnd;

fn options() -> QueueOptions {
    QueueOptions {
        topic: "spans".to_owned(),
        partitions: 2,
        max_bytes: DEFAULT_MAX_BYTES,
        database: PathBuf::from("not-there.db"),
    }
}

async fn open(directory: &Path) -> Queue {
    Queue::open(Folder::lock(directory).unwrap(), options()).await.unwrap()
}

fn record(payload: &str) -> Record {
    Record {
        key: Some(b"key".to_vec()),
        payload: payload.as_bytes().to_vec(),
        headers: vec![("content-type".to_owned(), "text/plain".to_owned())],
        stored_bytes: 0,
    }
}

fn at(queue: &Queue, partition: u16) -> TopicPartition {
    TopicPartition { topic: queue.shared.topic.clone(), partition: partition.into() }
}

/// Reads `count` records from `offset` on, waiting for them.
async fn read(queue: &Queue, partition: u16, offset: u64, count: usize) -> Vec<(u64, String)> {
    let mut reader = queue.open(&at(queue, partition), offset).await.unwrap();
    let mut found = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), async {
        while found.len() < count {
            reader.ready().await;
            let limit = count - found.len();
            let end = reader
                .read(limit, &mut |message| {
                    let payload = String::from_utf8(message.payload.unwrap().to_vec()).unwrap();
                    found.push((message.offset, payload));
                    true
                })
                .unwrap();
            assert_ne!(end, ReadEnd::Reopen);
        }
    })
    .await
    .expect("the records arrive");
    found
}

async fn eventually(mut condition: impl AsyncFnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(10), async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the condition becomes true");
}

#[tokio::test]
async fn a_record_holds_its_memory_until_it_is_written_also_when_its_client_goes_away() {
    let directory = tempfile::tempdir().unwrap();
    let queue = open(directory.path()).await;
    // Another connection holds the file's write lock, so that nothing can be written.
    let mut holder = file::connect(&queue.shared.path).await.unwrap();
    let held = sqlx::Connection::begin_with(&mut holder, "BEGIN IMMEDIATE").await.unwrap();
    let large = Record { headers: vec![("name".to_owned(), "v".repeat(1_000))], ..record("payload") };
    let weight = large.weight();
    assert!(weight > 1_000, "{weight}");
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.append(b"trace", large).await }
    });
    eventually(async || queue.shared.waiting.available_permits() == WAITING_BYTES - weight).await;
    // Once it is on its way to the writer: this one may be waiting for it, behind the lock.
    tokio::task::yield_now().await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    assert_eq!(queue.shared.waiting.available_permits(), WAITING_BYTES - weight);
    held.rollback().await.unwrap();
    eventually(async || queue.shared.waiting.available_permits() == WAITING_BYTES).await;
    assert_eq!(queue.appended(), 1);
    queue.close().await;
}

#[tokio::test]
async fn records_come_back_in_order_with_key_and_headers() {
    let directory = tempfile::tempdir().unwrap();
    let queue = open(directory.path()).await;
    let first = queue.append(b"t", record("a")).await.unwrap();
    let second = queue.append(b"t", record("b")).await.unwrap();
    assert_eq!((first.offset, second.offset, first.partition), (0, 1, second.partition));

    let mut reader = queue.open(&at(&queue, first.partition), 0).await.unwrap();
    reader.ready().await;
    let mut seen = Vec::new();
    reader
        .read(1, &mut |message| {
            assert_eq!(message.key, Some(&b"key"[..]));
            message.headers.visit(&mut |name, value| seen.push((name.to_owned(), value.unwrap().to_vec())));
            true
        })
        .unwrap();
    assert_eq!(seen, [("content-type".to_owned(), b"text/plain".to_vec())]);
    drop(reader);
    let expected = [(0, "a".to_owned()), (1, "b".to_owned())];
    assert_eq!(read(&queue, first.partition, 0, 2).await, expected);
}

#[tokio::test]
async fn a_waiting_reader_wakes_when_a_record_is_committed() {
    let directory = tempfile::tempdir().unwrap();
    let queue = open(directory.path()).await;
    let partition = queue.append(b"t", record("a")).await.unwrap().partition;
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { read(&queue, partition, 0, 2).await }
    });
    queue.append(b"t", record("b")).await.unwrap();
    assert_eq!(waiting.await.unwrap().len(), 2);
}

#[tokio::test]
async fn many_concurrent_appends_share_transactions_and_none_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let queue = open(directory.path()).await;
    let appends: Vec<_> = (0..500u32)
        .map(|number| {
            let queue = queue.clone();
            tokio::spawn(
                async move { queue.append(&number.to_be_bytes(), record(&number.to_string())).await },
            )
        })
        .collect();
    let mut counts = [0, 0];
    for append in appends {
        counts[usize::from(append.await.unwrap().unwrap().partition)] += 1;
    }
    let mut all = Vec::new();
    for (partition, count) in counts.into_iter().enumerate() {
        let found = read(&queue, partition as u16, 0, count).await;
        assert!(found.iter().enumerate().all(|(index, (offset, _))| index as u64 == *offset));
        all.extend(found.into_iter().map(|(_, payload)| payload.parse::<u32>().unwrap()));
    }
    all.sort_unstable();
    assert_eq!(all, (0..500).collect::<Vec<_>>());
}

#[tokio::test]
async fn settled_records_are_deleted_but_for_the_newest_and_offsets_go_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let queue = open(directory.path()).await;
    let mut partition = 0;
    for number in 0..5 {
        partition = queue.append(b"t", record(&number.to_string())).await.unwrap().partition;
    }
    let place = at(&queue, partition);
    queue.report_position(&place, 5);
    eventually(async || queue.bounds(&place).await.unwrap().low == 4).await;
    let headers = r#"[["content-type","text/plain"]]"#;
    assert_eq!(queue.held_bytes(), (1 + "key".len() + headers.len()) as u64 + RECORD_OVERHEAD);
    let cluster_id = queue.cluster_id().await.unwrap();
    queue.close().await;
    drop(queue);

    let queue = open(directory.path()).await;
    assert_eq!(queue.cluster_id().await.unwrap(), cluster_id);
    assert_eq!(queue.bounds(&place).await.unwrap(), Bounds { low: 4, high: 5 });
    assert_eq!(queue.append(b"t", record("x")).await.unwrap().offset, 5);
    assert_eq!(read(&queue, partition, 4, 2).await, [(4, "4".to_owned()), (5, "x".to_owned())]);
}

#[tokio::test]
async fn an_offset_that_is_not_there_is_out_of_range() {
    let directory = tempfile::tempdir().unwrap();
    let queue = open(directory.path()).await;
    let mut reader = queue.open(&at(&queue, 0), 7).await.unwrap();
    reader.ready().await;
    assert_eq!(reader.read(1, &mut |_| true).unwrap(), ReadEnd::Reopen);
}

#[tokio::test]
async fn a_reader_gives_nothing_once_its_partition_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let queue = open(directory.path()).await;
    let partition = queue.append(b"t", record("a")).await.unwrap().partition;
    let mut old = queue.open(&at(&queue, partition), 0).await.unwrap();
    old.ready().await;
    let _new = queue.open(&at(&queue, partition), 0).await.unwrap();
    assert_eq!(old.read(1, &mut |_| panic!("a closed reader gave a record")).unwrap(), ReadEnd::Drained);
}

#[tokio::test]
async fn what_was_acknowledged_is_read_wherever_the_pipeline_should_start() {
    let directory = tempfile::tempdir().unwrap();
    let queue = open(directory.path()).await;
    let partition = queue.append(b"t", record("early")).await.unwrap().partition;
    for start_from in [StartFrom::Earliest, StartFrom::Latest, StartFrom::Timestamp(jiff::Timestamp::now())] {
        assert_eq!(queue.resolve_start(&at(&queue, partition), &start_from).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_queue_keeps_the_topic_that_it_had_first() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).await.close().await;
    let renamed = QueueOptions { topic: "renamed".to_owned(), ..options() };
    let queue = Queue::open(Folder::lock(directory.path()).unwrap(), renamed).await.unwrap();
    assert_eq!(queue.topic(), "spans");
}

#[tokio::test]
async fn a_full_queue_refuses_and_takes_again_once_the_sink_has_drained_it() {
    let directory = tempfile::tempdir().unwrap();
    let small = QueueOptions { max_bytes: 200, ..options() };
    let queue = Queue::open(Folder::lock(directory.path()).unwrap(), small).await.unwrap();
    queue.append(b"t", record(&"x".repeat(100))).await.unwrap();
    let partition = queue.append(b"t", record(&"x".repeat(100))).await.unwrap().partition;
    assert!(matches!(queue.append(b"t", record("y")).await, Err(AppendError::Full { .. })));
    let place = at(&queue, partition);
    queue.report_position(&place, 2);
    eventually(async || queue.bounds(&place).await.unwrap().low == 1).await;
    assert_eq!(queue.append(b"t", record("y")).await.unwrap().offset, 2);
}

#[tokio::test]
async fn room_is_kept_for_the_rows_of_what_waits_and_a_restart_takes_them_for_short_ones() {
    let directory = tempfile::tempdir().unwrap();
    let queue = open(directory.path()).await;
    let long = || Record { stored_bytes: 1_000_000, ..record("x") };
    let partition = queue.append(b"t", long()).await.unwrap().partition;
    queue.append(b"t", long()).await.unwrap();
    assert_eq!(queue.shared.room.there(), 2_000_000);
    queue.report_position(&at(&queue, partition), 2);
    eventually(async || queue.shared.room.there() == 1_000_000).await;
    queue.close().await;
    drop(queue);
    let queue = open(directory.path()).await;
    assert_eq!(queue.shared.room.there(), 2 * queue.held_bytes());
}

#[tokio::test]
async fn what_was_deleted_in_the_database_is_free_and_a_database_that_is_not_there_has_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sluice.db");
    let asked = file::beside(&path);
    file::free_bytes(&asked).await.unwrap_err();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut database = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let mut run = async |sql: &'static str| sqlx::raw_sql(sql).execute(&mut database).await.unwrap();
    run("CREATE TABLE t (body BLOB); INSERT INTO t VALUES (zeroblob(1000000))").await;
    assert_eq!(file::free_bytes(&asked).await.unwrap(), 0);
    run("DELETE FROM t").await;
    let free = file::free_bytes(&asked).await.unwrap();
    assert!((900_000..1_100_000).contains(&free), "{free}");
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let _queue = open(directory.path()).await;
    let error = Folder::lock(directory.path()).unwrap_err();
    assert!(error.to_string().contains(&format!("(process {})", std::process::id())), "{error}");
}

#[tokio::test]
async fn a_window_holds_a_bounded_number_of_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let queue = open(directory.path()).await;
    let big = "x".repeat(600 << 10);
    let mut partition = 0;
    for _ in 0..6 {
        partition = queue.append(b"t", record(&big)).await.unwrap().partition;
    }
    let fetched = file::fetch(&queue.shared.readers, partition.into(), 0, 256, 1 << 20).await.unwrap();
    assert_eq!(fetched.len(), 2);
    assert_eq!(read(&queue, partition, 0, 6).await.len(), 6);
}

#[tokio::test]
async fn the_file_becomes_smaller_once_the_sink_has_drained_it() {
    let directory = tempfile::tempdir().unwrap();
    let queue = open(directory.path()).await;
    let big = "x".repeat(100 << 10);
    let mut partition = 0;
    for _ in 0..40 {
        partition = queue.append(b"t", record(&big)).await.unwrap().partition;
    }
    queue.report_position(&at(&queue, partition), 40);
    let size = async || {
        let pages = sqlx::query_scalar::<_, i64>("PRAGMA page_count").fetch_one(&queue.shared.readers);
        pages.await.unwrap() * 4096
    };
    assert!(size().await > 40 * (100 << 10));
    eventually(async || size().await < 3 * (100 << 10)).await;
}
