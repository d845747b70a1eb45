use super::*;

#[test]
fn a_moment_is_a_time_or_how_long_ago() {
    assert_eq!(moment("2030-01-31T06:00:00Z").unwrap().as_second(), 1_896_069_600);
    let hours = Timestamp::now().as_second() - moment("2h").unwrap().as_second();
    assert!((7_199..=7_201).contains(&hours), "{hours}");
    for wrong in ["", "2", "h", "2w", "-1d", "99999999999999999d", "yesterday"] {
        assert!(moment(wrong).unwrap_err().contains("30d"), "{wrong}");
    }
}

#[test]
fn reasons_are_named_as_they_are_stored() {
    assert_eq!(reason("undecodable"), Ok(Reason::Undecodable));
    assert!(reason("Broken").unwrap_err().contains("TooLarge"));
}

#[test]
fn nothing_is_chosen_by_accident() {
    let none = Filters::default();
    assert!(chosen(&[], &none, false).is_err());
    assert_eq!(chosen(&[], &none, true).unwrap(), Some(LetterFilter::default()));
    assert_eq!(chosen(&[7], &none, false).unwrap(), None);
    let topic = Filters { topic: Some("spans".to_owned()), ..Filters::default() };
    assert!(chosen(&[], &topic, false).unwrap().is_some());
    assert!(chosen(&[7], &topic, false).is_err());
}
