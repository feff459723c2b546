//! Numbers as a sentence has them.

use std::fmt;

/// A number of things, such as "1 call" or "24 calls".
pub(crate) struct Count(pub(crate) u64, pub(crate) &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, thing) = self;
        write!(f, "{} {thing}{}", grouped(*count), if *count == 1 { "" } else { "s" })
    }
}

/// Returns a number with a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a share such as "63 % of 412 attempts", or "1 of 3 attempts" of few.
pub(crate) fn of(part: u64, whole: u64, thing: &'static str) -> String {
    let things = Count(whole, thing);
    match whole {
        0..20 => format!("{part} of {things}"),
        _ => format!("{} of {things}", percent(part, whole)),
    }
}

/// Returns a text as the begin of a sentence.
pub(crate) fn begin(mut text: String) -> String {
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

/// Returns a percentage, which is 0 or 100 only if it is exactly that.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let share = 100.0 * part as f64 / whole.max(1) as f64;
    match share {
        _ if part == 0 => "0 %".to_owned(),
        _ if part >= whole => "100 %".to_owned(),
        0.0..1.0 => "under 1 %".to_owned(),
        99.5.. => "over 99 %".to_owned(),
        _ => format!("{share:.0} %"),
    }
}

/// Returns a duration such as "640 ms", "1.9 s" or "52 min".
pub(crate) fn time(seconds: f64) -> String {
    match seconds {
        ..0.001 => "under 1 ms".to_owned(),
        ..0.995 => format!("{:.0} ms", seconds * 1e3),
        ..9.95 => format!("{} s", trimmed(seconds)),
        ..99.5 => format!("{seconds:.0} s"),
        ..5_970.0 => format!("{:.0} min", seconds / 60.0),
        ..172_000.0 => format!("{:.0} h", seconds / 3_600.0),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}

/// Returns the time since something happened, without fractions.
pub(crate) fn age(seconds: f64) -> String {
    time(seconds.max(1.0).round())
}

/// Returns a number with one decimal, or with none if it is whole.
fn trimmed(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// Returns the time that counts cover, such as "in 10 s".
pub(crate) fn window(seconds: f64) -> String {
    format!("in {:.0} s", seconds.max(1.0))
}

/// Returns a rate such as "24 calls/s are", or "3 calls in 10 s were" if there are few.
pub(crate) fn rate(count: u64, seconds: f64) -> String {
    let rate = count as f64 / seconds.max(f64::MIN_POSITIVE);
    if seconds > 0.0 && rate >= 2.0 {
        return format!("{} calls/s are", grouped(rate.round() as u64));
    }
    format!("{} {} {}", Count(count, "call"), window(seconds), were(count))
}

/// Returns the verb for a number of things.
pub(crate) fn were(count: u64) -> &'static str {
    if count == 1 { "was" } else { "were" }
}
