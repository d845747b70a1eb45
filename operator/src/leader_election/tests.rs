use std::sync::{Arc, Mutex};

use hyper::Request;
use kube::client::Body;
use serde_json::Value;

use super::*;
use crate::controller::example;

fn held(holder: Option<&str>, version: u32) -> Held {
    Held { holder: holder.map(str::to_owned), lasts: LEASE_DURATION, version: version.to_string() }
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_another_is_free_once_it_was_seen_unchanged_for_as_long_as_it_lasts() {
    let (mut patience, start) = (Patience::default(), Instant::now());
    let mut free_after =
        |seconds, held: &Held| patience.is_free(held, "a", start + Duration::from_secs(seconds));
    assert!(!free_after(0, &held(Some("b"), 1)));
    assert!(!free_after(14, &held(Some("b"), 1)));
    // Renewed at the last moment: the wait begins anew.
    assert!(!free_after(15, &held(Some("b"), 2)));
    assert!(!free_after(29, &held(Some("b"), 2)));
    assert!(free_after(30, &held(Some("b"), 2)));
}

#[tokio::test(start_paused = true)]
async fn nobodys_lease_and_that_of_an_earlier_process_of_the_same_name_are_free_at_once() {
    let now = Instant::now();
    assert!(Patience::default().is_free(&held(None, 1), "a", now));
    assert!(Patience::default().is_free(&held(Some("a"), 1), "a", now));
}

/// An API server that knows one Lease.
#[derive(Default)]
struct Server {
    lease: Mutex<Option<Value>>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Answers,
    /// Takes requests, does nothing and says nothing.
    Silent,
    /// Does what it is asked, and says nothing.
    Mute,
}

impl Server {
    fn candidate(self: &Arc<Self>, identity: &str) -> Candidate {
        let server = self.clone();
        let client = example::client_of(move |request| {
            let server = server.clone();
            async move { server.serve(request).await }
        });
        Candidate::new(client, "default", "lease".to_owned(), identity.to_owned())
    }

    async fn serve(&self, request: Request<Body>) -> (u16, Value) {
        let state = *self.state.lock().unwrap();
        if state == State::Silent {
            return std::future::pending().await;
        }
        let method = request.method().clone();
        let body = request.into_body().collect_bytes().await.unwrap();
        let answer = self.answer(method.as_str(), serde_json::from_slice(&body).unwrap_or_default());
        if state == State::Mute {
            return std::future::pending().await;
        }
        answer
    }

    fn answer(&self, method: &str, body: Value) -> (u16, Value) {
        let mut lease = self.lease.lock().unwrap();
        let refused = |code: u16, reason: &str| (code, example::refusal(code, reason));
        match (method, &mut *lease) {
            ("GET", None) => return refused(404, "NotFound"),
            ("GET", Some(_)) => {}
            ("POST", none) => {
                *none = Some(body);
                lease.as_mut().unwrap()["metadata"]["resourceVersion"] = "1".into();
            }
            ("PATCH", Some(lease)) => {
                let version = &lease["metadata"]["resourceVersion"];
                if body["metadata"]["resourceVersion"] != *version {
                    return refused(409, "Conflict");
                }
                let next: u64 = version.as_str().unwrap().parse::<u64>().unwrap() + 1;
                lease["metadata"]["resourceVersion"] = next.to_string().into();
                for (field, value) in body["spec"].as_object().unwrap() {
                    lease["spec"][field] = value.clone();
                }
            }
            _ => return refused(405, "MethodNotAllowed"),
        }
        (200, lease.clone().unwrap())
    }

    fn become_(&self, state: State) {
        *self.state.lock().unwrap() = state;
    }

    fn holder(&self) -> Value {
        self.lease.lock().unwrap().as_ref().unwrap()["spec"]["holderIdentity"].clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_nothing_ends_the_lead_before_another_one_may_follow() {
    let server = Arc::<Server>::default();
    let mut lead = server.candidate("a").win().await;
    let mut keeping = Box::pin(lead.keep());
    assert!(
        timeout(LEASE_DURATION * 10, &mut keeping).await.is_err(),
        "renewed for as long as it is answered"
    );
    let silent_from = Instant::now();
    server.become_(State::Silent);
    assert_eq!(keeping.await, Lost::Silence);
    let acted = silent_from.elapsed();
    assert!(acted <= RENEW_DEADLINE && acted >= RENEW_DEADLINE - RENEW_EVERY, "{acted:?}");
}

#[tokio::test(start_paused = true)]
async fn renewals_whose_answers_are_lost_do_not_count_and_do_not_end_a_lead_that_goes_on() {
    let server = Arc::<Server>::default();
    let mut lead = server.candidate("a").win().await;
    let mut keeping = Box::pin(lead.keep());
    for _ in 0..20 {
        // One renewal falls into this time.
        server.become_(State::Mute);
        assert!(timeout(RENEW_EVERY, &mut keeping).await.is_err());
        server.become_(State::Answers);
        assert!(timeout(4 * RENEW_EVERY, &mut keeping).await.is_err());
    }
    server.become_(State::Mute);
    assert_eq!(timeout(RENEW_DEADLINE + Duration::from_millis(1), keeping).await, Ok(Lost::Silence));
}

#[tokio::test(start_paused = true)]
async fn of_two_candidates_one_leads_and_the_other_follows_when_it_falls_silent() {
    let server = Arc::<Server>::default();
    let lead = server.candidate("a").win().await;
    let renewed = lead.renewed;
    // Never kept: as a process that is frozen.
    let second = server.candidate("b").win().await;
    assert!(second.renewed - renewed >= LEASE_DURATION);
    assert_eq!(server.holder(), "b");
    // It thaws, and neither renews nor gives back what is another's.
    let mut lead = lead;
    assert_eq!(lead.keep().await, Lost::Silence, "it has been too long");
    lead.give_back().await;
    assert_eq!(server.holder(), "b");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_names_another_ends_the_lead() {
    let server = Arc::<Server>::default();
    let mut lead = server.candidate("a").win().await;
    let version = lead.version.clone();
    let stolen = json!({ "holderIdentity": "b" });
    lead.candidate.write(&version, stolen).await.unwrap();
    assert_eq!(lead.keep().await, Lost::Holder("b".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_lead_that_is_given_back_is_taken_at_the_next_look() {
    let server = Arc::<Server>::default();
    server.candidate("a").win().await.give_back().await;
    let began = Instant::now();
    server.candidate("b").win().await;
    assert!(began.elapsed() < RETRY_PERIOD);
}
