use std::{
    fmt::Debug,
    ops::RangeInclusive,
    time::{Duration, UNIX_EPOCH},
};

use allocation_counter::measure;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_TYPE, DATE, RETRY_AFTER},
};
use proptest::{collection::vec, prelude::*};

use super::{retry::retry_after_by, *};

/// Returns headers with one line for each value, in order.
fn lines<V: AsRef<[u8]>>(name: HeaderName, values: impl IntoIterator<Item = V>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(&name, HeaderValue::from_bytes(value.as_ref()).unwrap());
    }
    headers
}

fn line(name: HeaderName, value: impl AsRef<[u8]>) -> HeaderMap {
    lines(name, [value])
}

fn read_as<T>(value: T) -> Parsed<T> {
    Parsed { value: Some(value), malformed: 0 }
}

fn ignored<T>(malformed: u32) -> Parsed<T> {
    Parsed { value: None, malformed }
}

fn assert_malformed<T: Debug + PartialEq>(
    name: HeaderName,
    read: impl Fn(&HeaderMap) -> Parsed<T>,
    values: &[&str],
) {
    for value in values {
        assert_eq!(read(&line(name.clone(), value)), ignored(1), "{name}: {value:?}");
    }
    assert_eq!(read(&line(name.clone(), b"\xff5\xff")), ignored(1), "{name}: not ASCII");
    assert_eq!(read(&HeaderMap::new()), ignored(0), "{name}: absent");
}

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// Sun, 06 Nov 1994 08:49:37 GMT, the example date of the HTTP specification.
const NOVEMBER: Duration = Duration::from_secs(784_111_777);

#[test]
fn each_unit_of_a_grpc_timeout_is_understood() {
    for (text, time) in [
        ("2H", SECOND * 7_200),
        ("3M", SECOND * 180),
        ("4S", SECOND * 4),
        ("5m", MILLI * 5),
        ("6u", Duration::from_micros(6)),
        ("7n", Duration::from_nanos(7)),
        ("99999999H", SECOND * 3_600 * 99_999_999),
        ("00000001S", SECOND),
        ("0n", Duration::ZERO),
        (" \t8S\t ", SECOND * 8),
    ] {
        assert_eq!(grpc_timeout(&line(GRPC_TIMEOUT, text)), read_as(time), "{text:?}");
    }
}

#[test]
fn a_malformed_time_is_ignored_and_counted() {
    assert_malformed(
        GRPC_TIMEOUT,
        grpc_timeout,
        &[
            "",
            " ",
            "S",
            "5",
            "5s",
            "5h",
            "+5S",
            "-5S",
            "5 S",
            "1.5S",
            "100000000n",
            "5S, 6S",
            "5SS",
        ],
    );
    let millis = ["", "\t", "+5", "-5", "1.5", "5ms", "0x5", "5 5", "5, 6", "18446744073709551616"];
    assert_malformed(EXPECTED_TIMEOUT, expected_timeout, &millis);
    assert_malformed(CONNECT_TIMEOUT, connect_timeout, &millis);
    assert_malformed(CONNECT_TIMEOUT, connect_timeout, &["10000000000", "00000000005"]);
    assert_malformed(EXPECTED_TIMEOUT, expected_timeout, &["0", "000000000000000000005"]);
}

#[test]
fn a_number_of_milliseconds_is_understood_to_its_limit() {
    for (text, millis) in [("1", 1), (" 250\t", 250), ("9999999999", 9_999_999_999)] {
        let time = read_as(Duration::from_millis(millis));
        assert_eq!(expected_timeout(&line(EXPECTED_TIMEOUT, text)), time, "{text:?}");
        assert_eq!(connect_timeout(&line(CONNECT_TIMEOUT, text)), time, "{text:?}");
    }
    let most = line(EXPECTED_TIMEOUT, "18446744073709551615");
    assert_eq!(expected_timeout(&most), read_as(Duration::from_millis(u64::MAX)));
    assert_eq!(connect_timeout(&line(CONNECT_TIMEOUT, "0")), read_as(Duration::ZERO));
}

#[test]
fn of_two_lines_the_shorter_time_counts() {
    for (grpc, millis) in [(["3S", "2S"], ["3000", "2000"]), (["2S", "3S"], ["2000", "3000"])] {
        let shorter = read_as(SECOND * 2);
        assert_eq!(grpc_timeout(&lines(GRPC_TIMEOUT, grpc)), shorter);
        assert_eq!(expected_timeout(&lines(EXPECTED_TIMEOUT, millis)), shorter);
        assert_eq!(connect_timeout(&lines(CONNECT_TIMEOUT, millis)), shorter);
    }
}

#[test]
fn a_malformed_line_does_not_void_the_lines_beside_it() {
    for order in [["x", "2S", "", "1S"], ["1S", "x", "2S", ""], ["", "1S", "2S", "x"]] {
        let read = grpc_timeout(&lines(GRPC_TIMEOUT, order));
        assert_eq!(read, Parsed { value: Some(SECOND), malformed: 2 });
    }
}

#[test]
fn of_two_lines_the_larger_count_of_attempts_counts() {
    for order in [["2", "3"], ["3", "2"]] {
        assert_eq!(previous_attempts(&lines(PREVIOUS_ATTEMPTS, order)), read_as(3));
        assert_eq!(attempt_count(&lines(ATTEMPT_COUNT, order)), read_as(3));
    }
}

#[test]
fn a_count_of_attempts_is_a_positive_number_of_32_bits() {
    let malformed = ["", "0", "00", "+1", "-1", "1.0", "one", "1, 2", "4294967296", "00000000001"];
    assert_malformed(PREVIOUS_ATTEMPTS, previous_attempts, &malformed);
    assert_malformed(ATTEMPT_COUNT, attempt_count, &malformed);
    for (text, count) in [("1", 1), (" 02 ", 2), ("4294967295", u32::MAX)] {
        assert_eq!(previous_attempts(&line(PREVIOUS_ATTEMPTS, text)), read_as(count));
        assert_eq!(attempt_count(&line(ATTEMPT_COUNT, text)), read_as(count));
    }
}

#[test]
fn pushback_is_a_wait_or_else_it_stops() {
    for (values, said) in [
        (&[][..], Pushback::Absent),
        (&["0"], Pushback::After(Duration::ZERO)),
        (&["1500"], Pushback::After(MILLI * 1_500)),
        (&[" 7\t"], Pushback::After(MILLI * 7)),
        (&["2147483647"], Pushback::After(MILLI * 2_147_483_647)),
        (&["-1"], Pushback::Stop),
        (&["-0"], Pushback::Stop),
        (&["-2147483648"], Pushback::Stop),
        (&["-2147483649"], Pushback::Malformed),
        (&["2147483648"], Pushback::Malformed),
        (&["99999999999"], Pushback::Malformed),
        (&[""], Pushback::Malformed),
        (&["-"], Pushback::Malformed),
        (&["--1"], Pushback::Malformed),
        (&["- 1"], Pushback::Malformed),
        (&["+1"], Pushback::Malformed),
        (&["abc"], Pushback::Malformed),
        (&["1.5"], Pushback::Malformed),
        (&["1, 1"], Pushback::Malformed),
        (&["1", "1"], Pushback::Malformed),
        (&["1", "-1"], Pushback::Malformed),
        (&["1", "x"], Pushback::Malformed),
    ] {
        let read = pushback(&lines(PUSHBACK, values));
        assert_eq!(read, said, "{values:?}");
        assert_eq!(read.stops(), matches!(said, Pushback::Stop | Pushback::Malformed));
    }
    assert_eq!(pushback(&line(PUSHBACK, b"\xb2")), Pushback::Malformed);
}

#[test]
fn seconds_to_wait_are_capped_and_never_overflow() {
    for (text, wait) in [
        ("0", Duration::ZERO),
        ("120", SECOND * 120),
        (" 007\t", SECOND * 7),
        ("31536000", LONGEST_RETRY_AFTER),
        ("31536001", LONGEST_RETRY_AFTER),
        ("31536000000", LONGEST_RETRY_AFTER),
        ("18446744073709551616", LONGEST_RETRY_AFTER),
        ("999999999999999999999999999999", LONGEST_RETRY_AFTER),
    ] {
        assert_eq!(retry_after(&line(RETRY_AFTER, text)), read_as(wait), "{text:?}");
    }
    assert_malformed(
        RETRY_AFTER,
        retry_after,
        &["", " ", "+5", "-5", "1.5", "5s", "5, 6", "soon", "Sun, 06 Nov 1994", "1994-11-06"],
    );
}

#[test]
fn of_two_waits_the_longer_counts() {
    for order in [["3", "later", "5"], ["5", "3", "later"]] {
        let read = retry_after(&lines(RETRY_AFTER, order));
        assert_eq!(read, Parsed { value: Some(SECOND * 5), malformed: 1 });
    }
}

/// Reads a date while the local clock says `now`.
fn wait_until(until: &str, answered: &[&str], now: Duration) -> Parsed<Duration> {
    let mut headers = lines(DATE, answered);
    headers.insert(RETRY_AFTER, HeaderValue::from_str(until).unwrap());
    retry_after_by(&headers, || UNIX_EPOCH + now)
}

#[test]
fn each_form_of_a_date_is_measured_against_the_date_of_the_answer() {
    // A clock that is decades fast or slow must not matter.
    for now in [Duration::ZERO, NOVEMBER, NOVEMBER * 3] {
        for answered in [
            "Sun, 06 Nov 1994 08:49:07 GMT",
            "Sunday, 06-Nov-94 08:49:07 GMT",
            "Sun Nov  6 08:49:07 1994",
        ] {
            for until in [
                "Sun, 06 Nov 1994 08:49:37 GMT",
                "Sunday, 06-Nov-94 08:49:37 GMT",
                "Sun Nov  6 08:49:37 1994",
                "\tSun, 06 Nov 1994 08:49:37 GMT ",
            ] {
                let read = wait_until(until, &[answered], now);
                assert_eq!(read, read_as(SECOND * 30), "{until:?} from {answered:?}");
            }
        }
    }
}

#[test]
fn a_date_without_a_readable_date_of_the_answer_is_measured_by_the_own_clock() {
    let until = "Sun, 06 Nov 1994 08:49:37 GMT";
    let now = NOVEMBER - SECOND * 10;
    for answered in [&[][..], &[""], &["yesterday"], &["Mon, 06 Nov 1994 08:49:07 GMT"]] {
        assert_eq!(wait_until(until, answered, now), read_as(SECOND * 10), "{answered:?}");
    }
    let second = ["yesterday", "Sun, 06 Nov 1994 08:49:36 GMT"];
    assert_eq!(wait_until(until, &second, now), read_as(SECOND));
}

#[test]
fn a_date_in_the_past_is_no_wait_and_one_far_ahead_is_capped() {
    let answered = ["Sun, 06 Nov 1994 08:49:37 GMT"];
    for (until, wait) in [
        ("Sun, 06 Nov 1994 08:49:37 GMT", Duration::ZERO),
        ("Sun, 06 Nov 1994 08:49:36 GMT", Duration::ZERO),
        ("Thu, 01 Jan 1970 00:00:00 GMT", Duration::ZERO),
        ("Mon, 06 Nov 1995 08:49:37 GMT", LONGEST_RETRY_AFTER),
        ("Mon, 06 Nov 1995 08:49:38 GMT", LONGEST_RETRY_AFTER),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_RETRY_AFTER),
    ] {
        assert_eq!(wait_until(until, &answered, NOVEMBER), read_as(wait), "{until:?}");
    }
    for until in [
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Mon, 06 Nov 1994 08:49:37 GMT",
        "Sat, 01 Jan 10000 00:00:00 GMT",
    ] {
        assert_eq!(wait_until(until, &answered, NOVEMBER), ignored(1), "{until:?}");
    }
}

#[test]
fn only_false_says_anything_about_whether_to_retry() {
    for said in [&["false"][..], &["FALSE"], &[" False\t"], &["true", "false"], &["false", "true"]]
    {
        assert!(should_not_retry(&lines(SHOULD_RETRY, said)), "{said:?}");
    }
    for said in
        [&[][..], &["true"], &[""], &["0"], &["no"], &["false, true"], &["falsee"], &["fals"]]
    {
        assert!(!should_not_retry(&lines(SHOULD_RETRY, said)), "{said:?}");
    }
}

#[test]
fn grpc_is_told_by_its_content_type() {
    for value in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc;charset=utf-8",
        "application/grpc ; x",
        " Application/GRPC\t",
    ] {
        assert!(is_grpc(&line(CONTENT_TYPE, value)), "{value:?}");
    }
    for value in [
        "",
        "application/grp",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpcx",
        "application/json",
        "text/application/grpc",
    ] {
        assert!(!is_grpc(&line(CONTENT_TYPE, value)), "{value:?}");
    }
    assert!(!is_grpc(&HeaderMap::new()));
    assert!(!is_grpc(&line(CONTENT_TYPE, b"application/grpc\xff")));
}

#[test]
fn a_status_that_is_not_to_be_understood_is_unknown() {
    assert_eq!(grpc_status(&HeaderMap::new()), None);
    for number in 0..=16 {
        let code = GrpcCode::from_number(number).unwrap();
        assert_eq!(code.number(), number);
        assert_eq!(grpc_status(&line(GRPC_STATUS, number.to_string())), Some(code));
        // The name in upper case is the name of the variant.
        let name = format!("{code:?}").to_uppercase();
        assert_eq!(code.as_str().replace('_', ""), name);
    }
    assert_eq!(GrpcCode::from_number(17), None);
    for value in ["", "17", "99", "-1", "+0", "0.0", "000", "256", "OK", "0, 0"] {
        assert_eq!(grpc_status(&line(GRPC_STATUS, value)), Some(GrpcCode::Unknown), "{value:?}");
    }
    for (values, code) in [
        (["14", " 14"], GrpcCode::Unavailable),
        (["0", "14"], GrpcCode::Unknown),
        (["14", "0"], GrpcCode::Unknown),
        (["0", "x"], GrpcCode::Unknown),
    ] {
        assert_eq!(grpc_status(&lines(GRPC_STATUS, values)), Some(code), "{values:?}");
    }
}

#[test]
fn the_timer_of_tonic_is_told_from_a_caller_that_gave_up() {
    let answer = |status: &str, message: &str| {
        let mut headers = line(GRPC_STATUS, status);
        headers.insert(GRPC_MESSAGE, HeaderValue::from_str(message).unwrap());
        is_tonic_timeout(&headers)
    };
    assert!(answer("1", "Timeout%20expired"));
    assert!(answer("1", "Timeout expired"));
    for (status, message) in [
        ("4", "Timeout%20expired"),
        ("0", "Timeout expired"),
        ("1", "timeout expired"),
        ("1", "Timeout%20expired%2E"),
        ("1", ""),
    ] {
        assert!(!answer(status, message), "{status} {message:?}");
    }
    assert!(!is_tonic_timeout(&line(GRPC_STATUS, "1")));
    assert!(!is_tonic_timeout(&line(GRPC_MESSAGE, "Timeout expired")));
}

#[test]
fn a_grpc_timeout_is_written_in_the_finest_unit_that_fits() {
    let written = |left| grpc_timeout_value(left).map(|value| value.to_str().unwrap().to_owned());
    for (left, value) in [
        (Duration::from_nanos(1), "1n"),
        (Duration::from_nanos(99_999_999), "99999999n"),
        (Duration::from_nanos(100_000_999), "100000u"),
        (SECOND, "1000000u"),
        (SECOND * 100, "100000m"),
        (SECOND * 100_000, "100000S"),
        (SECOND * 100_000_000, "1666666M"),
        (Duration::from_secs(6_000_000_000), "1666666H"),
        (SECOND * 3_600 * 99_999_999, "99999999H"),
        (SECOND * 3_600 * 100_000_000, "99999999H"),
        (Duration::MAX, "99999999H"),
    ] {
        assert_eq!(written(left).as_deref(), Some(value), "{left:?}");
    }
    assert_eq!(written(Duration::ZERO), None);
}

#[test]
fn milliseconds_are_written_rounded_down_and_never_as_zero() {
    let written = |left| millis_value(left).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(written(Duration::ZERO), None);
    assert_eq!(written(MILLI - Duration::from_nanos(1)), None);
    assert_eq!(written(MILLI).as_deref(), Some("1"));
    assert_eq!(written(MILLI * 2 - Duration::from_nanos(1)).as_deref(), Some("1"));
    assert_eq!(written(MILLI * 1_050).as_deref(), Some("1050"));
    assert_eq!(written(Duration::MAX).as_deref(), Some("9999999999"));
}

#[test]
fn nothing_is_allocated_to_read() {
    let mut headers = HeaderMap::new();
    for (name, values) in [
        (GRPC_TIMEOUT, ["5S", "x"]),
        (EXPECTED_TIMEOUT, ["5", "x"]),
        (CONNECT_TIMEOUT, ["5", "x"]),
        (PREVIOUS_ATTEMPTS, ["5", "x"]),
        (ATTEMPT_COUNT, ["5", "x"]),
        (PUSHBACK, ["5", "x"]),
        (SHOULD_RETRY, ["false", "x"]),
        (RETRY_AFTER, ["Sun, 06 Nov 1994 08:49:37 GMT", "x"]),
        (DATE, ["x", "Sunday, 06-Nov-94 08:49:07 GMT"]),
        (GRPC_STATUS, ["1", "x"]),
        (GRPC_MESSAGE, ["Timeout expired", "x"]),
        (CONTENT_TYPE, ["application/grpc", "x"]),
    ] {
        for value in values {
            headers.append(&name, HeaderValue::from_static(value));
        }
    }
    let counted = measure(|| {
        read_all(&headers);
    });
    assert_eq!(counted.count_total, 0);
}

/// Calls every reader, and checks the properties that hold for all headers.
fn read_all(headers: &HeaderMap) {
    let count = |name: HeaderName| headers.get_all(name).iter().count();
    fn check<T: PartialOrd>(read: Parsed<T>, lines: usize, range: RangeInclusive<T>) {
        let understood = lines - read.malformed as usize;
        assert_eq!(read.value.is_some(), understood > 0);
        assert!(read.value.is_none_or(|value| range.contains(&value)));
    }
    let no_time = Duration::ZERO;
    let hours = SECOND * 3_600 * 99_999_999;
    check(grpc_timeout(headers), count(GRPC_TIMEOUT), no_time..=hours);
    let most = Duration::from_millis(u64::MAX);
    check(expected_timeout(headers), count(EXPECTED_TIMEOUT), MILLI..=most);
    let most = Duration::from_millis(9_999_999_999);
    check(connect_timeout(headers), count(CONNECT_TIMEOUT), no_time..=most);
    check(previous_attempts(headers), count(PREVIOUS_ATTEMPTS), 1..=u32::MAX);
    check(attempt_count(headers), count(ATTEMPT_COUNT), 1..=u32::MAX);
    check(retry_after(headers), count(RETRY_AFTER), no_time..=LONGEST_RETRY_AFTER);
    match pushback(headers) {
        Pushback::Absent => assert_eq!(count(PUSHBACK), 0),
        Pushback::After(wait) => assert!(wait <= MILLI * 2_147_483_647),
        Pushback::Stop | Pushback::Malformed => assert!(count(PUSHBACK) > 0),
    }
    assert_eq!(grpc_status(headers).is_some(), count(GRPC_STATUS) > 0);
    assert!(!should_not_retry(headers) || count(SHOULD_RETRY) > 0);
    assert!(!is_grpc(headers) || count(CONTENT_TYPE) > 0);
    assert!(!is_tonic_timeout(headers) || count(GRPC_MESSAGE) > 0);
}

/// Returns every byte that a header may contain.
fn any_byte() -> impl Strategy<Value = u8> {
    any::<u8>()
        .prop_filter("not in a header", |byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f))
}

/// Returns bytes of all kinds, and text that is almost valid.
fn any_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any_byte(), 0..40),
        "[ \t]?[+-]?[0-9]{0,22}[HMSmun]?[ \t]?".prop_map(String::into_bytes),
        "(Sun|Mon), [0-9]{2} (Nov|Feb) [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
            .prop_map(String::into_bytes),
        "(Sunday|Monday), [0-9]{2}-Nov-[0-9]{2} 08:49:[0-9]{2} GMT".prop_map(String::into_bytes),
        "Sun Nov [ 0-9][0-9] 08:49:[0-9]{2} [0-9]{4}".prop_map(String::into_bytes),
    ]
}

/// Returns durations of every order of magnitude.
fn any_time() -> impl Strategy<Value = Duration> {
    (any::<u64>(), 0u32..64, 0u32..1_000_000_000)
        .prop_map(|(seconds, shift, nanos)| Duration::new(seconds >> shift, nanos))
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(values in vec(any_value(), 0..5)) {
        let mut headers = HeaderMap::new();
        for name in [
            GRPC_TIMEOUT, EXPECTED_TIMEOUT, CONNECT_TIMEOUT, PREVIOUS_ATTEMPTS, ATTEMPT_COUNT,
            PUSHBACK, SHOULD_RETRY, RETRY_AFTER, DATE, GRPC_STATUS, GRPC_MESSAGE, CONTENT_TYPE,
        ] {
            for value in &values {
                headers.append(&name, HeaderValue::from_bytes(value).unwrap());
            }
        }
        read_all(&headers);
    }

    #[test]
    fn a_written_timeout_never_reads_as_longer(left in any_time()) {
        if let Some(value) = grpc_timeout_value(left) {
            let read = grpc_timeout(&line(GRPC_TIMEOUT, value)).value.unwrap();
            prop_assert!(read > Duration::ZERO && read <= left);
            // A number that does not fit a unit is at least 100 000 of the next one.
            if left <= SECOND * 3_600 * 99_999_999 {
                prop_assert!(left - read <= left / 100_000);
            }
        } else {
            prop_assert!(left.is_zero());
        }
        if let Some(value) = millis_value(left) {
            let headers = lines(EXPECTED_TIMEOUT, [&value]);
            let read = expected_timeout(&headers).value.unwrap();
            prop_assert!(read > Duration::ZERO && read <= left);
            // Connect has the narrowest rule and must accept the value too.
            prop_assert_eq!(connect_timeout(&line(CONNECT_TIMEOUT, value)), read_as(read));
            if left < Duration::from_millis(9_999_999_999) {
                prop_assert!(left - read < MILLI);
            }
        } else {
            prop_assert!(left < MILLI);
        }
    }

    #[test]
    fn a_written_count_reads_as_itself(count in 1..=u32::MAX) {
        prop_assert_eq!(attempt_count(&line(ATTEMPT_COUNT, count_value(count))), read_as(count));
        let headers = line(PREVIOUS_ATTEMPTS, count_value(count));
        prop_assert_eq!(previous_attempts(&headers), read_as(count));
    }

    #[test]
    fn a_line_more_never_gives_a_call_more_time(values in vec("[0-9]{0,9}[HMSmun]", 1..5)) {
        let fewer = grpc_timeout(&lines(GRPC_TIMEOUT, &values[1..])).value;
        let more = grpc_timeout(&lines(GRPC_TIMEOUT, &values)).value;
        prop_assert!(fewer.is_none_or(|fewer| more.is_some_and(|more| more <= fewer)));
    }

    #[test]
    fn a_date_is_the_same_wait_whatever_the_own_clock_says(
        answered in 0u64..4_000_000_000,
        wait in 0u64..40_000_000,
        now in 0u64..8_000_000_000,
    ) {
        let date = |seconds| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        let read = wait_until(
            &date(answered + wait),
            &[&date(answered)],
            Duration::from_secs(now),
        );
        prop_assert_eq!(read, read_as(Duration::from_secs(wait).min(LONGEST_RETRY_AFTER)));
    }
}
