//! Tests: what answers in the place of a consumer may be anything, as whoever writes a pipeline chooses its image.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Between two bytes of one that trickles.
const TRICKLE: Duration = Duration::from_millis(50);

fn pipeline() -> ObjectRef<TracePipeline> {
    ObjectRef::new("traces").within("shop")
}

/// A pod that sends this whatever it is asked, and then hangs up or, where it trickles, sends a blank now and then
/// for as long as somebody listens. And who asks it.
async fn pod(sends: Vec<u8>, trickles: bool) -> Prober {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.expect("a connection");
        // Hanging up on what was not read would take back what was sent.
        let mut question = [0; 4_096];
        // Some of it is enough: it is answered whatever it is.
        let _ = connection.read(&mut question).await.expect("a question");
        // Whoever has heard enough hangs up first.
        let mut listens = connection.write_all(&sends).await.is_ok();
        while trickles && listens {
            tokio::time::sleep(TRICKLE).await;
            listens = connection.write_all(b" ").await.is_ok();
        }
    });
    Prober { port, ..Prober::new(Arc::default()) }
}

/// What is known of a pod after it was asked once, and whether it is counted as silent.
async fn told(prober: &Prober) -> (Result<Report, String>, bool) {
    let address = PodAddress { name: "a".into(), ip: Some("127.0.0.1".into()) };
    let target = Target { pods: vec![address], revision: 4, uid: "u".into() };
    prober.look_at(&pipeline(), target.clone());
    let (_, question) = prober.due(Instant::now()).pop().expect("it is due");
    let answers = prober.ask(&question).await;
    prober.keep(&pipeline(), &target, answers, Instant::now());
    let is_silent = prober.entries()[&pipeline()].silent.contains_key("a");
    (prober.reports(&pipeline()).pop().expect("a report").answer, is_silent)
}

/// What is known of one that answers, but with nothing that is of use.
async fn complaint(sends: impl Into<Vec<u8>>) -> String {
    let (answer, is_silent) = told(&pod(sends.into(), false).await).await;
    assert!(!is_silent, "it did answer: {answer:?}");
    answer.expect_err("no report")
}

fn answers(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n{body}")
}

#[tokio::test]
async fn a_consumer_is_heard() {
    let (answer, is_silent) = told(&pod(answers("200 OK", r#"{"revision":4}"#).into(), false).await).await;
    assert_eq!((answer.expect("a report").revision, is_silent), (4, false));
}

#[tokio::test]
async fn a_consumer_of_another_pipeline_is_not_heard() {
    let own = pod(answers("200 OK", r#"{"pipelineUid":"u"}"#).into(), false).await;
    told(&own).await.0.expect("its own word");
    let told = complaint(answers("200 OK", r#"{"pipelineUid":"v"}"#)).await;
    assert_eq!(told, "another pipeline's consumer answers in its place");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    elsewhere.set_nonblocking(true).expect("a listener");
    let address = elsewhere.local_addr().expect("an address");
    for code in [301, 302, 307, 308] {
        let head = format!("{code} Elsewhere\r\nlocation: http://{address}/status");
        assert_eq!(complaint(answers(&head, "")).await, format!("answers {code}"));
    }
    let came = elsewhere.accept().expect_err("nobody was sent there");
    assert_eq!(came.kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_cut_off() {
    // Else it would be a good one.
    let long = format!("{{{}}}", " ".repeat(2 * MAX_ANSWER_BYTES));
    let announced = format!("200 OK\r\ncontent-length: {}", long.len());
    for head in ["200 OK", &announced] {
        let told = complaint(answers(head, &long)).await;
        assert_eq!(told, "unreadable answer: length limit exceeded");
    }
    let most = format!("{{{}}}", " ".repeat(MAX_ANSWER_BYTES - 2));
    told(&pod(answers("200 OK", &most).into(), false).await).await.0.expect("as long as it may be");
}

#[tokio::test]
async fn an_answer_that_never_ends_is_heard_for_no_longer_than_the_limit_and_counts_as_silence() {
    let began = Instant::now();
    let in_its_head = pod(b"HTTP/1.1 200 OK\r\nserver:".to_vec(), true).await;
    let in_its_body = pod(answers("200 OK", "{").into(), true).await;
    let (head, body) = tokio::join!(told(&in_its_head), told(&in_its_body));
    for (answer, is_silent) in [head, body] {
        assert_eq!(answer, Err("no answer within 2 s".to_owned()));
        assert!(is_silent, "others must not wait for it again at once");
    }
    let took = began.elapsed();
    assert!(took >= TIMEOUT && took < TIMEOUT * 2, "{took:?}");
}

#[tokio::test]
async fn what_is_no_report_is_told_with_its_reason() {
    for (sent, reason) in [
        (answers("200 OK", "garbage"), "unreadable answer: expected value"),
        (answers("200 OK", ""), "unreadable answer: EOF"),
        (answers("200 OK", r#"{"revision":"four"}"#), "unreadable answer: invalid type"),
        (answers("200 OK\r\ncontent-length: 100", "{}"), "unreadable answer: "),
        (answers("503 Not Now", "{}"), "answers 503"),
        ("SSH-2.0-OpenSSH_10.0\r\n".to_owned(), "no answer: "),
        (String::new(), "no answer: "),
    ] {
        let told = complaint(sent.clone()).await;
        assert!(told.starts_with(reason), "{sent:?}: {told}");
    }
    let quoted = format!(r#"{{"revision":"{}"}}"#, "x".repeat(100_000));
    let told = complaint(answers("200 OK", &quoted)).await;
    assert!(told.starts_with("unreadable answer: invalid type") && told.len() <= 1_024, "{}", told.len());
}
