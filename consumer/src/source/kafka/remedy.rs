//! What to do about what a broker and its client refuse each other, from librdkafka's own words.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// What to do about members of the group that divide partitions in another way.
pub const OTHER_PROTOCOL: &str = "another program uses this group: stop it first, or choose another consumerGroup (the stored positions belong to it)";

/// An error of the client, with what to do about it where that is known.
pub fn told(code: Option<Code>, message: &str) -> String {
    let remedy = match code {
        Some(Code::TopicAuthorizationFailed) => {
            Some("let this user read it (kafka-acls --operation Read --topic)")
        }
        Some(Code::GroupAuthorizationFailed) => {
            Some("let this user read it (kafka-acls --operation Read --group)")
        }
        Some(Code::InconsistentGroupProtocol) => Some(OTHER_PROTOCOL),
        Some(Code::InvalidSessionTimeout) => Some(
            "let session.timeout.ms lie within what the brokers allow (their group.min.session.timeout.ms and \
             group.max.session.timeout.ms: 6 s to 30 min by default)",
        ),
        _ => of_credentials(message),
    };
    remedy.map_or_else(|| message.to_owned(), |remedy| format!("{message}: {remedy}"))
}

/// What the client refuses, without the value of a setting, which may be a credential.
pub fn without_value(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, _, name, _) => format!("librdkafka refuses the value of {name}"),
        error => error.to_string(),
    }
}

/// What to do about a password or a certificate that one side does not accept; none where it is something else.
pub fn of_credentials(message: &str) -> Option<&'static str> {
    let said = without_broker(message).to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["sasl authentication", "mechanism handshake", "authentication fail"]) {
        Some("check sasl.mechanism, and what usernameFrom and passwordFrom hold")
    } else if refuses_certificate(message) {
        Some(
            "let tls.certFrom and keyFrom hold a certificate of an authority that the brokers trust, and its key",
        )
    } else if has(&["certificate verify", "certificate_verify"]) {
        Some(
            "let tls.caFrom name the authority that signed the brokers' certificates, and name the brokers as these do",
        )
    } else {
        None
    }
}

/// Whether brokers refuse the certificate that the client shows, or that it shows none: the client takes what they say
/// for a broken connection.
pub fn refuses_certificate(message: &str) -> bool {
    let said = message.to_lowercase();
    // An alert comes from the other side.
    said.contains(" alert ") && (said.contains("certificate") || said.contains("unknown ca"))
}

/// A message begins with the broker's name, and that with the protocol, which says nothing about what is wrong:
/// `sasl_ssl://HOST:PORT/bootstrap: `.
pub fn without_broker(message: &str) -> &str {
    let said = message.split_once("://").and_then(|(_, rest)| rest.split_once(": ")).map(|(_, said)| said);
    said.unwrap_or(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What librdkafka 2.12 says of brokers that refuse and are refused, and a word of the remedy.
    const SAID: [(&str, &str); 6] = [
        ("SASL authentication error: Authentication failed: Invalid username or password", "usernameFrom"),
        (
            "SASL SCRAM-SHA-256 mechanism handshake failed: Broker: Unsupported SASL mechanism",
            "sasl.mechanism",
        ),
        ("SSL handshake failed: error:0A000086:SSL routines::certificate verify failed", "tls.caFrom"),
        (
            "Receive failed: error:0A000412:SSL routines::sslv3 alert bad certificate: SSL alert number 42",
            "certFrom",
        ),
        ("Receive failed: error:0A00045C:SSL routines::tlsv13 alert certificate required", "certFrom"),
        ("SSL handshake failed: error:0A000418:SSL routines::tlsv1 alert unknown ca", "certFrom"),
    ];

    #[test]
    fn each_side_that_refuses_has_its_remedy_whatever_protocol_the_brokers_name_begins_with() {
        for (said, word) in SAID {
            for said in [said.to_owned(), format!("sasl_ssl://k:9092/bootstrap: {said}")] {
                assert!(told(Some(Code::SSL), &said).contains(word), "{said}");
            }
        }
    }

    #[test]
    fn only_an_alert_of_the_other_side_refuses_the_clients_certificate() {
        let refused = SAID.map(|(said, _)| refuses_certificate(said));
        assert_eq!(refused, [false, false, false, true, true, true]);
    }

    #[test]
    fn a_broker_that_is_away_has_no_remedy_of_credentials() {
        for said in [
            "sasl_ssl://k:9092/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused",
            "sasl_ssl://sasl.kafka:9092/bootstrap: Failed to resolve 'sasl.kafka:9092': Name or service not known",
            "ssl://k:9092/1: Disconnected: SSL connection closed by peer",
        ] {
            assert_eq!(told(Some(Code::BrokerTransportFailure), said), said);
        }
    }

    #[test]
    fn a_group_that_lets_nobody_join_has_a_remedy() {
        let other = told(Some(Code::InconsistentGroupProtocol), "JoinGroup failed");
        let session = told(Some(Code::InvalidSessionTimeout), "JoinGroup failed");
        assert!(
            other.contains("stop it") && session.contains("group.min.session.timeout.ms"),
            "{other}, {session}"
        );
    }

    #[test]
    fn a_right_that_is_missing_is_named() {
        let topic = told(Some(Code::TopicAuthorizationFailed), "Fetch failed");
        let group = told(Some(Code::GroupAuthorizationFailed), "JoinGroup failed");
        assert!(topic.contains("--topic") && group.contains("--group"), "{topic}, {group}");
    }
}
