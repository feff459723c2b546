#![no_main]

use std::time::Duration;

use buttress::http::wire::{PUSHBACK, Pushback, SHOULD_RETRY, pushback, should_not_retry};
use buttress_fuzz::{count, lines};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let headers = lines(PUSHBACK, input);
    let lines_read = count(&headers, PUSHBACK);
    let said = pushback(&headers);
    match said {
        Pushback::Absent => assert_eq!(lines_read, 0),
        Pushback::After(wait) => {
            assert_eq!(lines_read, 1);
            assert!(wait <= Duration::from_millis(i32::MAX as u64));
        }
        Pushback::Stop => assert_eq!(lines_read, 1),
        Pushback::Malformed => assert_ne!(lines_read, 0),
    }
    // The standard library parses numbers independently. It is less strict in two points only: a
    // plus sign and leading zeros.
    if let (1, Some(text)) = (lines_read, headers.get(PUSHBACK).and_then(|v| v.to_str().ok())) {
        let text = text.trim_matches([' ', '\t']);
        match text.parse::<i32>() {
            Err(_) => assert_eq!(said, Pushback::Malformed),
            Ok(_) if text.starts_with('-') && text.len() <= 11 => assert_eq!(said, Pushback::Stop),
            Ok(millis) if !text.starts_with(['+', '-']) && text.len() <= 10 => {
                assert_eq!(said, Pushback::After(Duration::from_millis(millis as u64)));
            }
            Ok(_) => assert_eq!(said, Pushback::Malformed),
        }
    }

    let headers = lines(SHOULD_RETRY, input);
    let mut said = headers.get_all(SHOULD_RETRY).iter().filter_map(|line| line.to_str().ok());
    let expected = said.any(|line| line.trim_matches([' ', '\t']).to_lowercase() == "false");
    assert_eq!(should_not_retry(&headers), expected);
});
