//! What is wrong with a request to the API server, for people: its own words once. `kube` prints an answer three times over,
//! one of them as a dump of a Rust value.

use std::error::Error;

use kube::core::Status;

/// An error with its causes, on one line; of an answer of the API server, what it says.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut link = Some(error);
    while let Some(error) = link {
        let (printed, answer) = (error.to_string(), answer_of(error));
        let said = answer.map_or_else(|| printed.clone(), words);
        // Some errors print their cause themselves.
        if let Some(before) = text.strip_suffix(&printed).map(str::len) {
            text.truncate(before);
        } else if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&said);
        link = error.source().filter(|_| answer.is_none());
    }
    text
}

fn answer_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Status> {
    // A box is an error by itself.
    let boxed = || error.downcast_ref::<Box<kube::Error>>().map(|error| &**error);
    match error.downcast_ref::<kube::Error>().or_else(boxed) {
        Some(kube::Error::Api(status)) => Some(status),
        _ => None,
    }
}

fn words(answer: &Status) -> String {
    match answer {
        Status { message, .. } if !message.is_empty() => message.clone(),
        Status { reason, .. } if !reason.is_empty() => reason.clone(),
        Status { code, .. } => format!("the API server answers {code}"),
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher;

    use super::*;

    fn refused(message: &str, reason: &str) -> kube::Error {
        kube::Error::Api(Status::failure(message, reason).with_code(403).boxed())
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write a Role")]
    struct Outer(#[source] Box<kube::Error>);

    #[test]
    fn what_the_api_server_says_is_said_once_and_as_it_says_it() {
        let of = |message, reason| chain(&Outer(Box::new(refused(message, reason))));
        assert_eq!(of("roles are forbidden", "Forbidden"), "cannot write a Role: roles are forbidden");
        assert_eq!(of("", "Forbidden"), "cannot write a Role: Forbidden");
        assert_eq!(of("", ""), "cannot write a Role: the API server answers 403");
        let watch = watcher::Error::WatchStartFailed(refused("no", "Forbidden"));
        assert_eq!(chain(&watch), "failed to start watching object: no");
    }

    #[test]
    fn causes_of_other_errors_are_said_once_each() {
        let away = kube::Error::Service("connection refused".into());
        assert_eq!(chain(&away), "ServiceError: connection refused");
        assert_eq!(chain(&Outer(Box::new(away))), "cannot write a Role: ServiceError: connection refused");
    }
}
